//go:build !amd64 || noasm

package deflate

// tiers are the tiers of this build.
var tiers = []*tier{
	{name: "go", runs: true, routines: goRoutines},
}

// What the assembly needs besides.
type (
	counters struct{}
	scratch  struct{}
)
