package multifd_test

import (
	"testing"

	"github.com/vmferry/vmferry/internal/seed"
)

// addSeed adds an input to a fuzz target and, with -update, to its corpus.
func addSeed(f *testing.F, name string, args ...any) {
	f.Helper()
	seed.Add(f, *update, name, args...)
}
