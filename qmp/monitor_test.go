package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

func TestSocket_FromItsOwnJSON(t *testing.T) {
	want := qmp.Socket("/run/vm/a \"b\".sock")
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := qmp.SocketFromJSON(text); err != nil || got != want {
		t.Errorf("%s became %v, %v", text, got, err)
	}
	for _, other := range []string{`{"memory":true}`, `{}`, `null`, `{"qmp":7}`, `"/run/vm.sock"`, ``} {
		if got, err := qmp.SocketFromJSON([]byte(other)); err == nil {
			t.Errorf("%q became %v", other, got)
		}
	}
}

// A monitor that cannot be opened is nil, and not a nil of some type.
func TestSocket_OpenFailureIsNoMonitor(t *testing.T) {
	if m, err := qmp.Socket(filepath.Join(t.TempDir(), "qmp")).Open(t.Context()); err == nil || m != nil {
		t.Errorf("got %v, %v", m, err)
	}
}

// A Machine is the same over each monitor.
func TestMachine_OverEachMonitor(t *testing.T) {
	type played interface {
		Answer(command string, value any)
		Handle(command string, h qmptest.Handler)
		Refuse(command, desc string)
		Emit(name string, data any) error
		Die()
	}
	for name, start := range map[string]func() (played, qmp.Opener){
		"a socket": func() (played, qmp.Opener) {
			s := qmptest.Start(t, qmptest.Config{})
			return s, qmp.Socket(s.Path())
		},
		"no socket": func() (played, qmp.Opener) {
			m := qmptest.NewMemory(qmp.Version{})
			return m, m
		},
	} {
		t.Run(name, func(t *testing.T) {
			qemu, opener := start()
			qemu.Answer("query-status", map[string]any{"status": "paused"})
			qemu.Handle("stop", func(context.Context, json.RawMessage) (any, error) { return nil, qemu.Emit("STOP", nil) })
			qemu.Handle("echo", echo)
			qemu.Handle("silent", func(context.Context, json.RawMessage) (any, error) { return nil, qmptest.ErrNoAnswer })
			qemu.Refuse("cont", "not now")
			monitor, err := opener.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer monitor.Close()
			vm := qmp.NewMachine(monitor)
			if s, err := vm.QueryStatus(t.Context()); err != nil || s.Status != qmp.StatePaused {
				t.Errorf("status: %v, %v", s, err)
			}
			var got struct{ A int }
			if err := vm.Execute(t.Context(), "echo", map[string]int{"A": 3}, &got); err != nil || got.A != 3 {
				t.Errorf("echo: %v, %v", got, err)
			}
			stops, none := vm.Subscribe("STOP"), vm.Subscribe("RESUME")
			if err := vm.Stop(t.Context()); err != nil || len(stops.Events()) != 1 || len(none.Events()) != 0 {
				t.Errorf("stop: %v with %d events and %d others", err, len(stops.Events()), len(none.Events()))
			}
			var refused *qmp.Error
			if err := vm.Cont(t.Context()); !errors.As(err, &refused) || refused.Command != "cont" || refused.Desc != "not now" {
				t.Errorf("cont: %v, want the refusal", err)
			}
			vm.SetAnswerTimeout(20 * time.Millisecond)
			if err := vm.Execute(t.Context(), "silent", nil, nil); !errors.Is(err, qmp.ErrSilent) {
				t.Errorf("silent: %v, want ErrSilent", err)
			}
			vm.SetAnswerTimeout(0)
			qemu.Die()
			if err := vm.Execute(t.Context(), "echo", nil, nil); !errors.Is(err, qmp.ErrClosed) {
				t.Errorf("after QEMU's end: %v, want ErrClosed", err)
			}
			<-stops.Events()
			if _, open := <-stops.Events(); open {
				t.Error("a subscription outlives QEMU")
			}
			if _, err := opener.Open(t.Context()); !errors.Is(err, qmp.ErrNoQEMU) {
				t.Errorf("open after QEMU's end: %v, want ErrNoQEMU", err)
			}
		})
	}
}

// deadlineOpener opens nothing and notes whether it has a deadline.
type deadlineOpener struct {
	qmp.Socket
	bounded bool
}

func (o *deadlineOpener) Open(ctx context.Context) (qmp.Monitor, error) {
	_, o.bounded = ctx.Deadline()
	return nil, errors.New("no monitor")
}

func TestOpenWithin_TriesUntilTheTimeEnds(t *testing.T) {
	t.Run("an absent socket is named with the time", func(t *testing.T) {
		_, err := qmp.OpenWithin(t.Context(), qmp.Socket(filepath.Join(t.TempDir(), "qmp")), 120*time.Millisecond)
		if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, qmp.ErrNoQEMU) || !strings.Contains(err.Error(), "tried for") {
			t.Error(err)
		}
	})
	t.Run("a socket that nobody listens on is named with the time", func(t *testing.T) {
		_, err := qmp.OpenWithin(t.Context(), qmp.Socket(leftOver(t)), 120*time.Millisecond)
		if !errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, qmp.ErrNoQEMU) || !strings.Contains(err.Error(), "tried for") {
			t.Error(err)
		}
	})
	t.Run("without patience there is one attempt", func(t *testing.T) {
		_, err := qmp.OpenWithin(t.Context(), qmp.Socket(filepath.Join(t.TempDir(), "qmp")), -1)
		if !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "tried for") {
			t.Error(err)
		}
	})
	t.Run("something that is no socket fails at once", func(t *testing.T) {
		s := qmptest.Start(t, qmptest.Config{})
		_, err := qmp.OpenWithin(t.Context(), qmp.Socket(filepath.Join(s.Path(), "below")), time.Hour)
		if err == nil || errors.Is(err, qmp.ErrNoQEMU) || strings.Contains(err.Error(), "tried for") {
			t.Error(err)
		}
	})
	t.Run("a socket that comes later is connected to", func(t *testing.T) {
		s := qmptest.Start(t, qmptest.Config{})
		later := leftOver(t)
		done := make(chan error, 1)
		go func() {
			c, err := qmp.OpenWithin(t.Context(), qmp.Socket(later), time.Minute)
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
	t.Run("no opener is an error", func(t *testing.T) {
		if _, err := qmp.OpenWithin(t.Context(), nil, 0); err == nil {
			t.Error("want an error")
		}
	})
	t.Run("an attempt is bounded", func(t *testing.T) {
		var opener deadlineOpener
		if _, err := qmp.OpenWithin(t.Context(), &opener, 0); err == nil || !opener.bounded {
			t.Errorf("the opener's context has no deadline (%v)", err)
		}
	})
	t.Run("the context ends the wait", func(t *testing.T) {
		expired, cancel := context.WithTimeout(t.Context(), 80*time.Millisecond)
		defer cancel()
		_, err := qmp.OpenWithin(expired, qmp.Socket(filepath.Join(t.TempDir(), "qmp")), time.Hour)
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
