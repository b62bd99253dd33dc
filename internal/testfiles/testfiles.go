// Package testfiles reads and compares files of tests: golden files and compressed
// recordings.
//
// It is for tests of this module.
package testfiles

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// Golden compares got with testdata/NAME.golden, which it writes first if update is set.
func Golden(t testing.TB, update bool, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update if it is right):\n%s", path, diff)
	}
}

// Unzstd returns the content of a file that zstd compressed.
func Unzstd(t testing.TB, path string) []byte {
	t.Helper()
	data, err := ReadZstd(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// ReadZstd is Unzstd for what is not a testing.TB, and for files that may be missing.
func ReadZstd(path string) ([]byte, error) {
	packed, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	data, err := d.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}
