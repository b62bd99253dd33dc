// Package soak chooses the size of tests: small in an ordinary run, large with
// VMFERRY_SOAK=1 in the environment, which "make nightly" sets.
package soak

import "os"

// Long says whether tests use their long sizes.
var Long = os.Getenv("VMFERRY_SOAK") == "1"

// Times returns long in a soak run, and quick in an ordinary one.
func Times(quick, long int) int {
	if Long {
		return long
	}
	return quick
}
