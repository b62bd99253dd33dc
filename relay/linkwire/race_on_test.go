//go:build race

package linkwire

const raceEnabled = true
