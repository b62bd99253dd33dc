package qemu_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// monitor answers like a QEMU whose machine runs and can be saved.
func monitor(t *testing.T) *qmptest.Server {
	t.Helper()
	s := qmptest.Start(t, qmptest.Config{})
	s.Answer("query-status", map[string]any{"status": "running", "running": true})
	s.Answer("query-migrate", map[string]any{})
	s.Answer("query-migrate-capabilities", []map[string]any{{"capability": "multifd", "state": true}})
	s.Answer("query-migrate-parameters", map[string]any{"multifd-channels": 2, "multifd-compression": "none"})
	s.Answer("query-yank", []any{})
	for _, command := range []string{"migrate-set-capabilities", "migrate-set-parameters", "migrate", "migrate_cancel", "cont", "stop"} {
		s.Answer(command, nil)
	}
	return s
}

const escape = "\x1b[2J\x1b]0;title\x07"

// failed saves and returns the error's text, which a terminal can show.
func failed(t *testing.T, s *qmptest.Server) string {
	t.Helper()
	_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: filepath.Join(t.TempDir(), "snap")}, qemu.SaveOptions{Monitor: qmp.Socket(s.Path())})
	if err == nil {
		t.Fatal("it was saved")
	}
	if text := err.Error(); strings.ContainsAny(text, "\x1b\x07") {
		t.Errorf("an escape sequence is in %q", text)
	}
	return err.Error()
}

func TestSave_EscapeSequenceInQEMUsReasonIsNotPrinted(t *testing.T) {
	s := monitor(t)
	var migrating atomic.Bool
	s.Handle("migrate", func(context.Context, json.RawMessage) (any, error) {
		migrating.Store(true)
		return nil, nil
	})
	s.Handle("query-migrate", func(context.Context, json.RawMessage) (any, error) {
		if !migrating.Load() {
			return map[string]any{}, nil
		}
		return map[string]any{"status": "failed", "error-desc": "the reason " + escape}, nil
	})
	if text := failed(t, s); !strings.Contains(text, `the reason \x1b[2J`) {
		t.Errorf("the reason is not in %q", text)
	}
}

func TestSave_EscapeSequenceInABlockersReasonIsNotPrinted(t *testing.T) {
	s := monitor(t)
	s.Answer("query-migrate", map[string]any{"blocked-reasons": []string{"a device " + escape}})
	if text := failed(t, s); !strings.Contains(text, `a device \x1b[2J`) {
		t.Errorf("the reason is not in %q", text)
	}
}

func TestSave_EscapeSequenceInARefusalIsNotPrinted(t *testing.T) {
	s := monitor(t)
	s.Refuse("migrate", "refused "+escape)
	if text := failed(t, s); !strings.Contains(text, "refused ") {
		t.Errorf("the reason is not in %q", text)
	}
}

func TestSave_EscapeSequenceInARunStateIsNotPrinted(t *testing.T) {
	s := monitor(t)
	s.Answer("query-status", map[string]any{"status": "odd " + escape, "running": false})
	if text := failed(t, s); !strings.Contains(text, `odd \x1b[2J`) {
		t.Errorf("the state is not in %q", text)
	}
}
