package faults

import "slices"

// Figures are what one cell was measured to take. Its JSON keys, as those of
// Row, are a contract with users of the command.
type Figures struct {
	// DataFaults to LaterWriteFaults are page faults per 1,000 pages of their
	// kind: with data; zero and never written; zero first and written later,
	// of which one is at the arrival and one at the write.
	DataFaults         float64 `json:"data_faults"`
	ZeroFaults         float64 `json:"zero_faults"`
	LaterArrivalFaults float64 `json:"later_arrival_faults"`
	LaterWriteFaults   float64 `json:"later_write_faults"`
	// SetupFaults are those of mapping and preallocating, of all threads, per
	// 1,000 pages of memory. What the kernel populates counts here though
	// there is no trap for each.
	SetupFaults float64 `json:"setup_faults"`
	SetupMS     float64 `json:"setup_ms"`
	// ArrivalMS is for all pages to come in, WriteMS for the guest to write.
	ArrivalMS float64 `json:"arrival_ms"`
	WriteMS   float64 `json:"write_ms"`
	// MBps is guest memory by the time of both, in 10^6 bytes a second.
	MBps float64 `json:"mbps"`
	// The rest is of arrival and write together, and nil where it cannot be
	// read. Shoot-downs and VMStat are the whole system's.
	TLBShootdowns   *float64           `json:"tlb_shootdowns,omitempty"`
	DTLBLoadMisses  *float64           `json:"dtlb_load_misses,omitempty"`
	DTLBStoreMisses *float64           `json:"dtlb_store_misses,omitempty"`
	VMStat          map[string]float64 `json:"vmstat,omitempty"`
}

// RunMS is how long arrival and write took together, in milliseconds.
func (f *Figures) RunMS() float64 { return f.ArrivalMS + f.WriteMS }

// AllFaults is the faults per 1,000 pages of the whole memory.
func (f *Figures) AllFaults() float64 {
	return (f.DataFaults + f.ZeroFaults + f.LaterArrivalFaults + f.LaterWriteFaults) / 3
}

// median returns the middle of the values, or between the two in the middle.
func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	if n%2 == 1 {
		return values[n/2]
	}
	return (values[n/2-1] + values[n/2]) / 2
}

// medianOf is the median of one figure of several runs.
func medianOf[T any](runs []T, figure func(*T) float64) float64 {
	values := make([]float64, len(runs))
	for i := range runs {
		values[i] = figure(&runs[i])
	}
	return median(values)
}

// medianRead is medianOf for a figure that may not have been read: it takes
// all of them or none.
func medianRead(runs []Figures, figure func(*Figures) *float64) *float64 {
	for i := range runs {
		if figure(&runs[i]) == nil {
			return nil
		}
	}
	m := medianOf(runs, func(f *Figures) float64 { return *figure(f) })
	return &m
}

// medians returns the median of each figure by itself. There is one run at
// least.
func medians(runs []Figures) *Figures {
	m := &Figures{
		DataFaults:         medianOf(runs, func(f *Figures) float64 { return f.DataFaults }),
		ZeroFaults:         medianOf(runs, func(f *Figures) float64 { return f.ZeroFaults }),
		LaterArrivalFaults: medianOf(runs, func(f *Figures) float64 { return f.LaterArrivalFaults }),
		LaterWriteFaults:   medianOf(runs, func(f *Figures) float64 { return f.LaterWriteFaults }),
		SetupFaults:        medianOf(runs, func(f *Figures) float64 { return f.SetupFaults }),
		SetupMS:            medianOf(runs, func(f *Figures) float64 { return f.SetupMS }),
		ArrivalMS:          medianOf(runs, func(f *Figures) float64 { return f.ArrivalMS }),
		WriteMS:            medianOf(runs, func(f *Figures) float64 { return f.WriteMS }),
		MBps:               medianOf(runs, func(f *Figures) float64 { return f.MBps }),
		TLBShootdowns:      medianRead(runs, func(f *Figures) *float64 { return f.TLBShootdowns }),
		DTLBLoadMisses:     medianRead(runs, func(f *Figures) *float64 { return f.DTLBLoadMisses }),
		DTLBStoreMisses:    medianRead(runs, func(f *Figures) *float64 { return f.DTLBStoreMisses }),
	}
	for name := range runs[0].VMStat {
		if m.VMStat == nil {
			m.VMStat = map[string]float64{}
		}
		m.VMStat[name] = medianOf(runs, func(f *Figures) float64 { return f.VMStat[name] })
	}
	return m
}
