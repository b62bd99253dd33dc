// Package seed keeps the seeds of fuzz targets in their corpus.
package seed

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Add adds an input of bytes and byte slices to a fuzz target. With keep it also
// writes it to the target's corpus in testdata, where it stays what it was when
// the code that made it changes.
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
