package faults

import (
	"errors"
	"maps"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestShootdowns_AreOfAllProcessors(t *testing.T) {
	const rows = "           CPU0       CPU1\n 24:  7 9 IO-APIC 5-edge ACPI:Ged\nRES: 1 2 Rescheduling interrupts\nTLB:    17   25   TLB shootdowns\n"
	if got, err := shootdowns(strings.NewReader(rows)); got != 42 || err != nil {
		t.Errorf("%d, error %v; want 42", got, err)
	}
	if _, err := shootdowns(strings.NewReader(strings.ReplaceAll(rows, "TLB:", "IPI:"))); !errors.Is(err, errNoRow) {
		t.Errorf("without the row: error %v", err)
	}
}

func TestVMStatTLB_Rows(t *testing.T) {
	const rows = "nr_free_pages 5\nnr_tlb_remote_flush 3\nnr_tlb_local_flush_one 9\nallocstall_normal 1\n"
	want := map[string]uint64{"nr_tlb_remote_flush": 3, "nr_tlb_local_flush_one": 9}
	if got := vmstatTLB(strings.NewReader(rows)); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestCounted_FaultsOfThisThread(t *testing.T) {
	const pages = 100
	var got int64
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := countFaults(&got, func() error {
		mem, err := mapBuffer(false)
		for i := range pages {
			mem[i*pageSize] = 1
		}
		return errors.Join(err, unix.Munmap(mem))
	})
	if err != nil || got < pages/16 || got > pages+50 { // pages may be larger than 4 KiB
		t.Errorf("%d faults of %d pages, error %v", got, pages, err)
	}
	want := errors.New("as it happens")
	if err := countFaults(&got, func() error { return want }); !errors.Is(err, want) {
		t.Errorf("error %v", err)
	}
}

func TestTLB_CounterThatIsNotReadHasAReason(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	counters := newTLB()
	defer counters.close()
	var f Figures
	if err := counters.start(); err != nil {
		t.Fatal(err)
	}
	if err := counters.stop(&f); err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for _, n := range counters.not {
		reasons[n.Counter] = n.Reason
	}
	for name, read := range map[string]bool{
		"tlb_shootdowns": f.TLBShootdowns != nil, "dtlb_misses": f.DTLBLoadMisses != nil && f.DTLBStoreMisses != nil, "vmstat": f.VMStat != nil,
	} {
		if read == (reasons[name] != "") {
			t.Errorf("%s: read: %v, reason why not: %q", name, read, reasons[name])
		}
	}
}

func TestTLB_CounterThatFailsIsLeftOut(t *testing.T) {
	// No descriptor of a counter: stopping it fails.
	counters := &tlb{misses: &misses{-1, -1}}
	var f Figures
	if err := counters.stop(&f); err != nil {
		t.Fatal(err)
	}
	if f.DTLBLoadMisses != nil || f.DTLBStoreMisses != nil || counters.misses != nil || len(counters.not) != 1 {
		t.Errorf("figures %+v, not read: %v", f, counters.not)
	}
}
