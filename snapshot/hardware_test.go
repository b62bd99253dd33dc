package snapshot_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/snapshot"
)

func TestHardwareCheckBoundsTheRecord(t *testing.T) {
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
