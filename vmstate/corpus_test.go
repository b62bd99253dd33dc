package vmstate_test

import (
	"flag"
	"testing"

	"github.com/vmferry/vmferry/internal/seed"
)

var update = flag.Bool("update", false, "write the seeds of the fuzz targets anew")

// addSeed adds an input to a fuzz target and, with -update, to its corpus.
func addSeed(f *testing.F, name string, args ...any) {
	f.Helper()
	seed.Add(f, *update, name, args...)
}
