package qmp_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

func TestQueryRAMBlocksReadsTheTextsOfQEMUs(t *testing.T) {
	tests := map[string]struct {
		text string
		want []qmp.RAMBlock
	}{
		"7.2": {
			text: "              Block Name    PSize              Offset               Used              Total\n" +
				"                  pc.ram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000\n" +
				"    /rom@etc/acpi/tables    4 KiB  0x00000000080c0000 0x0000000000020000 0x0000000000200000\n",
			want: []qmp.RAMBlock{{Name: "pc.ram", Used: 128 << 20, Max: 128 << 20}, {Name: "/rom@etc/acpi/tables", Offset: 0x80c0000, Used: 128 << 10, Max: 2 << 20}},
		},
		"10.0 has more columns": {
			text: "   Block Name    PSize   Offset    Used   Total   HVA  RO\n" +
				"0000:00:01.0/virtio-net-pci.rom    2 MiB  0x0000000008080000 0x0000000000040000 0x0000000000040000 0x00007f3da2000000  ro\n",
			want: []qmp.RAMBlock{{Name: "0000:00:01.0/virtio-net-pci.rom", Offset: 0x8080000, Used: 256 << 10, Max: 256 << 10}},
		},
		"a name with a space":         {text: "a b 4 KiB 0x0 0x1 0x2\n", want: []qmp.RAMBlock{{Name: "a b", Used: 1, Max: 2}}},
		"lines that say other things": {text: "\n\nblock 0x1 0x2\nx 4 KiB 0x0 0x1\nx 4 KiB 0xg 0x1 0x2\nx 4 KiB 0x0 0x1 0x11111111111111111\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := qmptest.Start(t, qmptest.Config{})
			s.Answer("x-query-ramblock", map[string]string{"human-readable-text": test.text})
			got, err := dial(t, s).QueryRAMBlocks(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestQomPropertyChild(t *testing.T) {
	for kind, want := range map[string]string{"child<nvme>": "nvme", "link<bus>": "", "child<": "", "string": ""} {
		got, ok := qmp.QomProperty{Type: kind}.Child()
		if ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v", kind, got, ok)
		}
	}
}

func TestMigrateIncomingAndStayTellsQEMUNotToExit(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Answer("migrate-incoming", nil)
	if err := dial(t, s).MigrateIncomingAndStay(t.Context(), "unix:/a"); err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.Calls()[1].Args), `{"exit-on-error":false,"uri":"unix:/a"}`; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
}

func TestDialWithin(t *testing.T) {
	t.Run("an absent socket is named with the time", func(t *testing.T) {
		_, err := qmp.DialWithin(t.Context(), filepath.Join(t.TempDir(), "qmp"), 120*time.Millisecond)
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "tried for") {
			t.Error(err)
		}
	})
	t.Run("a socket that nobody listens on is named with the time", func(t *testing.T) {
		_, err := qmp.DialWithin(t.Context(), leftOver(t), 120*time.Millisecond)
		if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "tried for") {
			t.Error(err)
		}
	})
	t.Run("without patience there is one attempt", func(t *testing.T) {
		_, err := qmp.DialWithin(t.Context(), filepath.Join(t.TempDir(), "qmp"), -1)
		if !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "tried for") {
			t.Error(err)
		}
	})
	t.Run("something that is no socket fails at once", func(t *testing.T) {
		s := qmptest.Start(t, qmptest.Config{})
		_, err := qmp.DialWithin(t.Context(), filepath.Join(s.Path(), "below"), time.Hour)
		if err == nil || strings.Contains(err.Error(), "tried for") {
			t.Error(err)
		}
	})
	t.Run("a socket that comes later is connected to", func(t *testing.T) {
		s := qmptest.Start(t, qmptest.Config{})
		later := leftOver(t)
		done := make(chan error, 1)
		go func() {
			c, err := qmp.DialWithin(t.Context(), later, time.Minute)
			if err == nil {
				err = c.Close()
			}
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		if err := os.Remove(later); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(s.Path(), later); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("the context ends the wait", func(t *testing.T) {
		expired, cancel := context.WithTimeout(t.Context(), 80*time.Millisecond)
		defer cancel()
		_, err := qmp.DialWithin(expired, filepath.Join(t.TempDir(), "qmp"), time.Hour)
		if err == nil {
			t.Error("want an error")
		}
	})
}

// leftOver makes the file of a socket that nobody listens on.
func leftOver(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
