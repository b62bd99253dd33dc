package vmstate_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the seeds of the fuzz targets anew")

// seed adds an input to a fuzz target and, with -update, to its corpus in
// testdata.
func seed(f *testing.F, name string, args ...any) {
	f.Helper()
	f.Add(args...)
	if !*update {
		return
	}
	text := "go test fuzz v1\n"
	for _, arg := range args {
		switch v := arg.(type) {
		case []byte:
			text += fmt.Sprintf("[]byte(%q)\n", v)
		default:
			f.Fatalf("a seed of type %T", arg)
		}
	}
	path := filepath.Join("testdata", "fuzz", f.Name(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.Fatal(err)
	}
}
