package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
)

func TestSave_LevelThatQEMUDoesNotHaveIsRefusedBeforeAnythingIsMade(t *testing.T) {
	for _, m := range multifd.Methods() {
		levels := qemu.SourceLevels(m)
		for _, level := range []int{-3, levels.Most + 1, 99} {
			path := filepath.Join(t.TempDir(), "snap")
			_, err := vmferry.Save(t.Context(), vmferry.Snapshot{Path: path}, qemu.SaveOptions{Monitor: qmp.Socket(filepath.Join(t.TempDir(), "no-socket")), Wire: migration.Wire{Method: m, Level: level}})
			if !errors.Is(err, multifd.ErrLevel) || !strings.Contains(err.Error(), m.Name()) || !strings.Contains(err.Error(), levels.String()) {
				t.Errorf("%s, level %d: %v", m.Name(), level, err)
			}
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s, level %d: the directory exists: %v", m.Name(), level, err)
			}
		}
	}
}

func TestRestore_LevelThatTheMethodDoesNotHaveIsRefusedBeforeQEMUIsAsked(t *testing.T) {
	for _, m := range multifd.Methods() {
		_, err := qemu.Restore(t.Context(), nil, qemu.RestoreOptions{Monitor: qmp.Socket(filepath.Join(t.TempDir(), "no-socket")), Wire: migration.Wire{Method: m, Level: 99}})
		if !errors.Is(err, multifd.ErrLevel) {
			t.Errorf("%s: %v", m.Name(), err)
		}
	}
}
