package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// The command at the pause gets a QMP socket also if the save's monitor is none.
func TestAtPauseMonitor_RelaysOverAMonitorWithoutSocket(t *testing.T) {
	qemu := qmptest.NewMemory(qmp.Version{Major: 9, Minor: 2, Package: "played"})
	qemu.Handle("query-name", func(_ context.Context, args json.RawMessage) (any, error) {
		return map[string]any{"name": args}, qemu.Emit("JOB_STATUS_CHANGE", map[string]int{"id": 3})
	})
	for _, command := range []string{"cont", "stop", "loadvm", "migrate", "migrate_cancel"} {
		qemu.Answer(command, nil)
	}
	vm := vmOf(t, qemu)
	dir, err := makeSocketDir(vm, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.remove()
	monitor, err := startAtPauseMonitor(vm, dir, saving)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.stop()
	c, err := qmp.Dial(t.Context(), monitor.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Version() != vm.Version() {
		t.Errorf("it says that QEMU is %+v, want %+v", c.Version(), vm.Version())
	}
	events := c.Subscribe("JOB_STATUS_CHANGE")
	var got struct{ Name json.RawMessage }
	if err := c.Execute(t.Context(), "query-name", map[string]int{"a": 1}, &got); err != nil || string(got.Name) != `{"a":1}` {
		t.Errorf("query-name: %s, %v", got.Name, err)
	}
	var data struct{ ID int }
	e, open := <-events.Events()
	if !open {
		t.Fatal("no event")
	}
	if err := e.Decode(&data); err != nil || data.ID != 3 {
		t.Errorf("event: %s, %v", e.Data, err)
	}
	var refused *qmp.Error
	if err := c.Execute(t.Context(), "no-such", nil, nil); !errors.As(err, &refused) || refused.Class != qmp.ClassCommandNotFound {
		t.Errorf("no-such: %v, want QEMU's refusal", err)
	}
	for _, command := range []string{"cont", "stop", "loadvm", "migrate", "migrate_cancel"} {
		if err := c.Execute(t.Context(), command, nil, nil); !errors.As(err, &refused) || !strings.Contains(refused.Desc, "--at-pause") {
			t.Errorf("%s: %v, want that it is refused", command, err)
		}
	}
	for _, call := range qemu.Calls() {
		if call.Command != "query-name" && call.Command != "no-such" {
			t.Errorf("%s reached QEMU", call.Command)
		}
	}
	qemu.Disconnect()
	if err := c.Execute(t.Context(), "query-name", nil, nil); !errors.As(err, &refused) || !strings.Contains(refused.Desc, qmp.ErrClosed.Error()) {
		t.Errorf("after the save's monitor has ended: %v", err)
	}
}
