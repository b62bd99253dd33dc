package faults

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
