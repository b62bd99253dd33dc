package testfiles

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestGolden_ComparesAndUpdates(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	Golden(t, true, "name", "content")
	Golden(t, false, "name", "content")
	fails := &recorder{TB: t}
	Golden(fails, false, "name", "other content")
	if !fails.failed {
		t.Error("other content is no failure")
	}
}

// recorder is a test whose failures are recorded only.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }

func TestUnzstd_ReadsAFile(t *testing.T) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "file.zst")
	if err := os.WriteFile(path, w.EncodeAll([]byte("content"), nil), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Unzstd(t, path); string(got) != "content" {
		t.Errorf("%q", got)
	}
}
