package unixpath_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/internal/unixpath"
)

func TestShort_LongDirectoryServesASocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "socket")
	short, release, err := unixpath.Short(path)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", short)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket is not at its own path: %v", err)
	}
	conn, err := net.Dial("unix", short)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	ln.Close()
	release()
	if _, err := net.Dial("unix", short); err == nil {
		t.Error("the short path works after release")
	}
}

func TestShort_KeepsAPathThatFits(t *testing.T) {
	short, release, err := unixpath.Short("/run/s")
	if err != nil || short != "/run/s" {
		t.Errorf("%q, %v", short, err)
	}
	release()
}

func TestShort_LongFileNameIsRefused(t *testing.T) {
	name := strings.Repeat("s", 100)
	_, _, err := unixpath.Short(filepath.Join(t.TempDir(), name))
	if !errors.Is(err, unixpath.ErrTooLong) || !strings.Contains(err.Error(), "100 bytes") {
		t.Errorf("%v, want ErrTooLong with the length", err)
	}
}

func TestCheck_NamesLengthLimitAndAdvice(t *testing.T) {
	err := unixpath.Check("/"+strings.Repeat("a", 107), "choose a shorter one with --socket-dir")
	if !errors.Is(err, unixpath.ErrTooLong) || !strings.Contains(err.Error(), "108 bytes (at most 107)") || !strings.Contains(err.Error(), "--socket-dir") {
		t.Errorf("%v", err)
	}
	if err := unixpath.Check("/"+strings.Repeat("a", 106), ""); err != nil {
		t.Error(err)
	}
}
