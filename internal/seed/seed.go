// Package seed adds seeds to fuzz targets and writes them to the corpus in testdata.
package seed

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Add adds an input to a fuzz target. The arguments are bytes and byte slices. With keep,
// Add also writes the input to the target's corpus in testdata, where the input stays the
// same when the code that made it changes.
func Add(f *testing.F, keep bool, name string, args ...any) {
	f.Helper()
	f.Add(args...)
	if !keep {
		return
	}
	text := "go test fuzz v1\n"
	for _, arg := range args {
		switch v := arg.(type) {
		case byte:
			text += fmt.Sprintf("byte(%q)\n", rune(v))
		case []byte:
			text += fmt.Sprintf("[]byte(%q)\n", v)
		default:
			f.Fatalf("unsupported seed type %T", arg)
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
