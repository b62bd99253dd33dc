//go:build !race

package linkwire

// raceEnabled says that the race detector is built in, under which loops over pages are slow.
const raceEnabled = false
