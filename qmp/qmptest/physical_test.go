package qmptest_test

import (
	"testing"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

func TestServePhysical_IsReadAsTheMachinesMemory(t *testing.T) {
	m := qmptest.NewMemory(qmp.Version{})
	m.ServePhysical("pc.ram", 1<<20, func(addr uint64, content []byte) {
		for i := range content {
			content[i] = byte(addr>>12) + byte(i)
		}
	})
	monitor, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	vm := qmp.NewMachine(monitor)
	ram, err := vm.QueryPhysicalRAM(t.Context())
	if err != nil || len(ram) != 1 || ram[0] != (qmp.PhysicalRAM{Size: 1 << 20, Block: "pc.ram"}) {
		t.Errorf("%+v, %v", ram, err)
	}
	got := make([]byte, 24)
	if err := vm.DumpPhysical(t.Context(), 5<<12+8, got); err != nil || got[0] != 5+8 || got[23] != 5+8+23 {
		t.Errorf("%v, %v", got, err)
	}
	if err := vm.DumpPhysical(t.Context(), 1<<20, got); err == nil {
		t.Error("memory where there is none")
	}
}
