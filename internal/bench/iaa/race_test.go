//go:build race

package iaabench

const raceEnabled = true
