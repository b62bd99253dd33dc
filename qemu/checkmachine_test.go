package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
	"github.com/vmferry/vmferry/snapshot"
)

func TestRestore_PreallocationHint(t *testing.T) {
	devs := []qmp.MemoryBackend{{ID: "ram0"}, {ID: "ram1"}, {ID: "touched", Prealloc: true}, {}}
	for method, level := range map[multifd.Method]string{multifd.None: "DEBUG", multifd.Zstd: "DEBUG", multifd.QPL: "WARN"} {
		server := qmptest.Start(t, qmptest.Config{})
		s := &restore{incoming: incoming{noun: "restore", vm: vmOf(t, qmp.Socket(server.Path()))}}
		var log bytes.Buffer
		s.opts.Method, s.opts.Logger = method, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		if err := s.checkMemory(t.Context(), devs); err != nil {
			t.Fatal(err)
		}
		got := log.String()
		if strings.Count(got, "not preallocated") != 1 || !strings.Contains(got, "level="+level) || !strings.Contains(got, "memdev=ram0,ram1") {
			t.Errorf("%s: want one line of level %s, of both; logged:\n%s", method.Name(), level, got)
		}
		if s.allZero {
			t.Error("memory without a file is taken for a used file")
		}
	}
}

func TestDescribe_RecordsTheHardware(t *testing.T) {
	t.Run("a QEMU that answers nothing is no error", func(t *testing.T) {
		d, err := describe(t.Context(), vmOf(t, qmptest.NewMemory(qmp.Version{})))
		if err != nil {
			t.Fatal(err)
		}
		if h, err := d.record(); err != nil || h.CPU.Count != 0 || len(h.Devices) != 0 {
			t.Errorf("got %+v, %v", h, err)
		}
	})
	t.Run("a monitor that ends is an error", func(t *testing.T) {
		server := qmptest.NewMemory(qmp.Version{})
		vm := vmOf(t, server)
		server.Die()
		if _, err := describe(t.Context(), vm); !errors.Is(err, qmp.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
	t.Run("what is more than a snapshot holds is not kept", func(t *testing.T) {
		d := &described{}
		d.hardware.CPU.Type = strings.Repeat("x", 1000)
		if h, err := d.record(); err == nil || h != nil {
			t.Errorf("got %v, %v", h, err)
		}
	})
}

func TestRestore_FailureNamesTheStateOfQEMU(t *testing.T) {
	broken := fmt.Errorf("writing: %w", unix.EPIPE)
	corrupt := fmt.Errorf("%w: pages-000000: its digest is wrong", snapshot.ErrCorrupt)
	unread := &fs.PathError{Op: "read", Path: "pages-000000", Err: syscall.EIO}
	tests := map[string]struct {
		migration map[string]string
		err       error
		want      []string
	}{
		"the snapshot is corrupt": {
			map[string]string{"status": "failed", "error-desc": "load of migration failed"}, corrupt,
			[]string{"^snapshot: corrupt: pages-000000", `left "inmigrate" with a part`, "quit"},
		},
		"a file of the snapshot cannot be read": {
			map[string]string{"status": "failed", "error-desc": "load of migration failed"}, unread,
			[]string{"^read pages-000000: input/output error", `left "inmigrate" with a part`, "quit"},
		},
		"QEMU says why": {
			map[string]string{"status": "failed", "error-desc": "no such device"}, broken,
			[]string{"QEMU could not load the machine: no such device", "broken pipe", `left "inmigrate" with a part`, "quit"},
		},
		"QEMU said why before": {
			map[string]string{"status": "failed", "error-desc": "no such device"}, errLoad,
			[]string{`left "inmigrate" with a part`},
		},
		"nothing was begun": {
			map[string]string{}, broken,
			[]string{"broken pipe", `left "inmigrate" and still waits`},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server := qmptest.Start(t, qmptest.Config{})
			server.Answer("query-migrate", test.migration)
			server.Answer("query-status", map[string]any{"status": "inmigrate"})
			err := (&restore{incoming: incoming{noun: "restore", vm: vmOf(t, qmp.Socket(server.Path()))}}).explain(t.Context(), test.err)
			if !errors.Is(err, test.err) {
				t.Errorf("%v does not wrap %v", err, test.err)
			}
			for _, want := range test.want {
				said := strings.Contains(err.Error(), want)
				if start, ok := strings.CutPrefix(want, "^"); ok {
					said = strings.HasPrefix(err.Error(), start)
				}
				if !said {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if strings.Count(err.Error(), "could not load") > 1 {
				t.Errorf("the error says a thing twice: %v", err)
			}
		})
	}
	t.Run("QEMU is gone", func(t *testing.T) {
		server := qmptest.Start(t, qmptest.Config{})
		s := &restore{incoming: incoming{noun: "restore", vm: vmOf(t, qmp.Socket(server.Path()))}}
		server.Die()
		if err := s.explain(t.Context(), broken); !errors.Is(err, ErrGone) || !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

// vmOf returns the machine behind a monitor, which is closed when the test ends.
func vmOf(t *testing.T, opener qmp.Opener) *qmp.Machine {
	t.Helper()
	monitor, err := opener.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { monitor.Close() })
	return qmp.NewMachine(monitor)
}
