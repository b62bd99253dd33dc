package snapshot_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/snapshot"
)

func TestHardware_CheckBoundsTheRecord(t *testing.T) {
	long := strings.Repeat("x", 257)
	many := map[string]int{}
	for i := range 4097 {
		many[fmt.Sprint(i)] = 1
	}
	for name, h := range map[string]*snapshot.Hardware{
		"type of the CPU":    {CPU: snapshot.CPUInfo{Type: long}},
		"signature":          {CPU: snapshot.CPUInfo{Signature: long}},
		"negative count":     {CPU: snapshot.CPUInfo{Count: -1}},
		"feature word":       {CPU: snapshot.CPUInfo{Features: map[string]uint32{long: 1}}},
		"topology":           {CPU: snapshot.CPUInfo{Topology: map[string]int{"cores": -1}}},
		"device":             {Devices: []snapshot.DeviceInfo{{ID: long}}},
		"number of devices":  {Devices: make([]snapshot.DeviceInfo, 4097)},
		"onboard":            {Onboard: map[string]int{long: 1}},
		"number of on-board": {Onboard: many},
	} {
		if err := h.Check(); err == nil || !strings.Contains(err.Error(), "hardware") {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	for _, h := range []*snapshot.Hardware{nil, {}, {Devices: make([]snapshot.DeviceInfo, 4096)}} {
		if err := h.Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestHardware_IsKeptAndCheckedWhenRead(t *testing.T) {
	bucket, _ := small(t, snapshot.StoreRaw, 4096)
	f := newForger(t, bucket)
	machine := f.manifest["machine"].(map[string]any)
	machine["hardware"] = map[string]any{"cpu": map[string]any{"type": "qemu64-x86_64-cpu", "features": map[string]any{"1.ECX": 1 << 25}}, "devices": []any{map[string]any{"id": "net0", "type": "e1000"}}}
	f.sign(t)
	h := open(t, bucket).Manifest().Machine.Hardware
	if h == nil || h.CPU.Type != "qemu64-x86_64-cpu" || h.CPU.Features["1.ECX"] != 1<<25 || len(h.Devices) != 1 || h.Devices[0].ID != "net0" {
		t.Errorf("read %+v", h)
	}
	machine["hardware"] = map[string]any{"cpu": map[string]any{"count": -1}}
	f.sign(t)
	if _, err := snapshot.Open(t.Context(), bucket, snapshot.OpenOptions{}); !errors.Is(err, snapshot.ErrCorrupt) {
		t.Errorf("a hostile record: %v, want ErrCorrupt", err)
	}
}
