package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

func TestVersion_FromTheGreeting(t *testing.T) {
	want := qmp.Version{Major: 7, Minor: 2, Micro: 22, Package: "Debian 1:7.2+dfsg-7+deb12u18"}
	c := dial(t, qmptest.Start(t, qmptest.Config{Version: want}))
	if got := c.Version(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := want.String(); got != "7.2.22" {
		t.Errorf("String: %q", got)
	}
	for v, atLeast := range map[[2]int]bool{{7, 2}: true, {7, 3}: false, {6, 9}: true, {8, 0}: false, {7, 1}: true} {
		if got := want.AtLeast(v[0], v[1]); got != atLeast {
			t.Errorf("AtLeast(%d, %d) = %v", v[0], v[1], got)
		}
	}
}

func TestDial_BusyMonitor(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	first := dial(t, s)
	_, err := qmp.Dial(soon(t), s.Path())
	if !errors.Is(err, qmp.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want ErrBusy at the deadline", err)
	}
	if !strings.Contains(err.Error(), s.Path()) || !strings.Contains(err.Error(), "another client") {
		t.Errorf("the error does not say where and what: %v", err)
	}
	first.Close()
	dial(t, s)
}

func TestDial_Cancelled(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{Silent: true})
	ctx, cancel := context.WithCancel(t.Context())
	cause := soon(t)
	context.AfterFunc(cause, cancel)
	if _, err := qmp.Dial(ctx, s.Path()); !errors.Is(err, context.Canceled) || errors.Is(err, qmp.ErrBusy) {
		t.Errorf("got %v, want Canceled and no word of a busy monitor", err)
	}
}

func TestDial_HangingNegotiation(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.Handle("qmp_capabilities", func(context.Context, json.RawMessage) (any, error) {
		cancel()
		return nil, qmptest.ErrNoAnswer
	})
	_, err := qmp.Dial(ctx, s.Path())
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "negotiate") {
		t.Errorf("got %v", err)
	}
}

func TestDial_NotQMP(t *testing.T) {
	for name, greeting := range map[string]string{
		"human monitor": "QEMU 10.0.2 monitor - type 'help' for more information",
		"answer":        `{"return":{},"id":1}`,
		"event":         `{"event":"STOP"}`,
		"empty object":  `{}`,
		"wrong types":   `{"QMP":{"version":{"qemu":{"major":"ten"}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := qmptest.Start(t, qmptest.Config{Greeting: greeting})
			if _, err := qmp.Dial(t.Context(), s.Path()); !errors.Is(err, qmp.ErrProtocol) {
				t.Errorf("got %v, want ErrProtocol", err)
			}
		})
	}
}

func TestDial_NoQEMU(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qmp")
	_, err := qmp.Dial(t.Context(), path)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "-qmp unix:") {
		t.Errorf("no socket: %v, want ErrNotExist and what to do", err)
	}

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	_, err = qmp.Dial(t.Context(), path)
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "no QEMU listens") {
		t.Errorf("a dead socket: %v, want ECONNREFUSED and what it means", err)
	}
}

// QEMU's queue of waiting connections has room for a few; the kernel refuses
// the next one at once.
func TestDial_QueueFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qmp")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if _, err := qmp.Dial(t.Context(), path); !errors.Is(err, qmp.ErrBusy) || !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("got %v, want ErrBusy because of EAGAIN", err)
	}
}
