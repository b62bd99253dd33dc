package faults

import "fmt"

// NotRead is a counter that this machine does not show.
type NotRead struct {
	Counter string `json:"counter"`
	Reason  string `json:"reason"`
}

// tlb reads what can be read about translations, for one thread.
type tlb struct {
	counted bool    // the row TLB of /proc/interrupts means something
	misses  *misses // nil if there are no counters
	not     []NotRead

	shootdowns uint64 // at start
	vmstat     map[string]uint64
}

// newTLB finds out what can be read, and why the rest cannot.
func newTLB() *tlb {
	t := new(tlb)
	if err := probeShootdowns(); err != nil {
		t.not = append(t.not, NotRead{"tlb_shootdowns", err.Error()})
	} else {
		t.counted = true
	}
	m, err := openMisses()
	if err != nil {
		t.not = append(t.not, NotRead{"dtlb_misses", err.Error()})
	}
	t.misses = m
	if len(readVMStat()) == 0 {
		t.not = append(t.not, NotRead{"vmstat", "/proc/vmstat has no rows nr_tlb_* (a kernel has them if built with CONFIG_DEBUG_TLBFLUSH)"})
	}
	return t
}

func (t *tlb) close() {
	if t.misses != nil {
		t.misses.close()
		t.misses = nil
	}
}

func (t *tlb) start() (err error) {
	t.vmstat = readVMStat()
	if t.counted {
		if t.shootdowns, err = readShootdowns(); err != nil {
			return fmt.Errorf("faults: %w", err)
		}
	}
	if t.misses != nil {
		err = t.misses.start()
	}
	return err
}

// stop puts what was counted since start into f.
func (t *tlb) stop(f *Figures) error {
	if t.misses != nil {
		loads, stores, err := t.misses.stop()
		if err != nil { // once is enough: medians are of all runs or of none
			t.close()
			t.not = append(t.not, NotRead{"dtlb_misses", err.Error()})
		} else {
			l, s := float64(loads), float64(stores)
			f.DTLBLoadMisses, f.DTLBStoreMisses = &l, &s
		}
	}
	if t.counted {
		now, err := readShootdowns()
		if err != nil {
			return fmt.Errorf("faults: %w", err)
		}
		n := float64(now - t.shootdowns)
		f.TLBShootdowns = &n
	}
	for name, now := range readVMStat() {
		if f.VMStat == nil {
			f.VMStat = map[string]float64{}
		}
		f.VMStat[name] = float64(now - t.vmstat[name])
	}
	return nil
}
