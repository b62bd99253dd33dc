//go:build !race

package snapshot_test

// raceEnabled says that the race detector is built in, whose own memory is
// several times the program's.
const raceEnabled = false
