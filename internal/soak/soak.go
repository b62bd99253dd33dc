// Package soak says how much a test does: little in an ordinary run, much where
// the environment has VMFERRY_SOAK=1, as make nightly sets it.
package soak

import "os"

// Long says whether tests take their long sizes.
var Long = os.Getenv("VMFERRY_SOAK") == "1"

// Times returns the size for this run: quick in an ordinary one, long in a soak.
func Times(quick, long int) int {
	if Long {
		return long
	}
	return quick
}
