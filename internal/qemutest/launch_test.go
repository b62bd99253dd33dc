package qemutest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cacheWith makes a cache folder with a manifest and a file "there".
func cacheWith(t *testing.T, manifest string) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("VMFERRY_CACHE", dir)
	manifest = strings.ReplaceAll(manifest, "DIR", dir)
	for name, content := range map[string]string{
		manifestName: manifest,
		"there":      "",
		"fails":      "#!/bin/sh\necho \"cannot allocate $2\" >&2\nexit 3\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLaunch_NotSetUp(t *testing.T) {
	for name, test := range map[string]struct{ manifest, want string }{
		"no entry":       {"# a comment\nKERNEL=DIR/there\nINITRD=DIR/there\n", "QEMU_10_0"},
		"file has gone":  {"QEMU_10_0=DIR/there\nKERNEL=DIR/gone\nINITRD=DIR/there\n", "KERNEL"},
		"broken line":    {"QEMU_10_0=DIR/there\nKERNEL\n", "line 2"},
		"empty manifest": {"", "INITRD"},
	} {
		t.Run(name, func(t *testing.T) {
			cacheWith(t, test.manifest)
			_, err := Launch(t.Context(), Config{})
			if !errors.Is(err, ErrNotSetUp) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "scripts/setup") {
				t.Errorf("got %v, want ErrNotSetUp with %q", err, test.want)
			}
		})
	}
	t.Run("no manifest", func(t *testing.T) {
		t.Setenv("VMFERRY_CACHE", t.TempDir())
		if _, err := Launch(t.Context(), Config{}); !errors.Is(err, ErrNotSetUp) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want ErrNotSetUp because of ErrNotExist", err)
		}
	})
	t.Run("outside the repository", func(t *testing.T) {
		t.Setenv("VMFERRY_CACHE", "")
		t.Chdir(t.TempDir())
		if _, err := Launch(t.Context(), Config{}); !errors.Is(err, ErrNotSetUp) {
			t.Errorf("got %v, want ErrNotSetUp", err)
		}
	})
}

// Only the version that scripts/setup may lack is omitted, and never in CI.
func TestVersions_OmitOnlyOptionalVersions(t *testing.T) {
	for name, test := range map[string]struct{ manifest, ci, want string }{
		"all":            {"QEMU_11_1=DIR/there\n", "", "7.2 10.0 11.1"},
		"no 11.1":        {"QEMU_10_0=DIR/there\n", "", "7.2 10.0"},
		"no 11.1, in CI": {"QEMU_10_0=DIR/there\n", "true", "7.2 10.0 11.1"},
		"nothing at all": {"broken", "", "7.2 10.0 11.1"},
	} {
		t.Run(name, func(t *testing.T) {
			cacheWith(t, test.manifest)
			t.Setenv("CI", test.ci)
			if got := strings.Join(Versions(), " "); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if Has("10.0", "11.1") != strings.HasSuffix(test.want, "11.1") {
				t.Error("Has and Versions disagree")
			}
		})
	}
}

func TestLaunch_UnsupportedVersion(t *testing.T) {
	cacheWith(t, "KERNEL=DIR/there\nINITRD=DIR/there\n")
	if _, err := Launch(t.Context(), Config{Version: "1.0"}); err == nil || !strings.Contains(err.Error(), `"1.0"`) {
		t.Errorf("got %v, want an error that names the version", err)
	}
}

// Launch notices at once that QEMU has ended, and returns its output.
func TestLaunch_QEMUExitsAtOnce(t *testing.T) {
	cacheWith(t, "QEMU_10_0=DIR/fails\nKERNEL=DIR/there\nINITRD=DIR/there\n")
	dir := t.TempDir()
	begun := time.Now()
	_, err := Launch(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "cannot allocate vmferry-test") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v, want ErrExited, the exit status and QEMU's output", err)
	}
	if took := time.Since(begun); took > startTimeout/2 {
		t.Errorf("Launch took %v", took)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestLaunch_BinaryCannotBeExecuted(t *testing.T) {
	dir := cacheWith(t, "QEMU_10_0=DIR/there\nKERNEL=DIR/there\nINITRD=DIR/there\n")
	if _, err := Launch(t.Context(), Config{}); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "there")) {
		t.Errorf("got %v, want an error that names the binary", err)
	}
}
