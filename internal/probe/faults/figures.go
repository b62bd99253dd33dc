package faults

// Figures are the measurements of one cell. Its JSON keys, as those of Row, are a contract
// with users of the command.
type Figures struct {
	// DataFaults to LaterWriteFaults are page faults per 1,000 pages of a kind: pages
	// with data; zero pages that are never written; and zero pages that are written
	// later, at their arrival and at their write.
	DataFaults         float64 `json:"data_faults"`
	ZeroFaults         float64 `json:"zero_faults"`
	LaterArrivalFaults float64 `json:"later_arrival_faults"`
	LaterWriteFaults   float64 `json:"later_write_faults"`
	// SetupFaults are the page faults of mapping and preallocating, of all threads,
	// per 1,000 pages of memory. They include pages that the kernel populates without
	// a trap.
	SetupFaults float64 `json:"setup_faults"`
	SetupMS     float64 `json:"setup_ms"`
	// ArrivalMS is the time for the arrival of all pages, and WriteMS the time for the
	// guest's writes.
	ArrivalMS float64 `json:"arrival_ms"`
	WriteMS   float64 `json:"write_ms"`
	// MBps is the size of guest memory divided by the sum of both times, in 10^6 bytes
	// a second.
	MBps float64 `json:"mbps"`
	// The fields below are for arrival and write together, and nil where they cannot
	// be read. TLBShootdowns and VMStat count events of the whole system.
	TLBShootdowns   *float64           `json:"tlb_shootdowns,omitempty"`
	DTLBLoadMisses  *float64           `json:"dtlb_load_misses,omitempty"`
	DTLBStoreMisses *float64           `json:"dtlb_store_misses,omitempty"`
	VMStat          map[string]float64 `json:"vmstat,omitempty"`
}
