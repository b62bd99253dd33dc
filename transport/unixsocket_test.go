package transport

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAddress_UnixPathLongerThanASocketsAddress(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	addr := Address{"unix", filepath.Join(dir, "s")}
	ln, err := addr.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(addr.Addr); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	conn, err := addr.Dial(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(addr.Addr); !os.IsNotExist(err) {
		t.Errorf("the socket still exists: %v", err)
	}
	long := Address{"unix", filepath.Join(t.TempDir(), strings.Repeat("n", 120))}
	if _, err := long.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "120 bytes") {
		t.Errorf("%v, want an error with the length of the file name", err)
	}
}

func TestAddress_CloseRemovesOnlyItsOwnSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := Address{"unix", path}.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of another listener was removed: %v", err)
	}
}
