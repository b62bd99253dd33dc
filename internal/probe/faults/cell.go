package faults

// Policy is what a destination does with a zero page that arrives.
type Policy string

const (
	// ScanZeros reads the page to see if it is zero already. QEMU's
	// destination did so.
	ScanZeros Policy = "scan zeros"
	// ReceivedBitmap leaves alone a page that no data came for. This is
	// guestmem.Memory.
	ReceivedBitmap Policy = "received bitmap"
)

// Path is how pages get to guest memory.
type Path string

const (
	// Direct inflates into guest memory itself.
	Direct Path = "direct"
	// Bounce inflates into a buffer and copies: guestmem.Bounced.
	Bounce Path = "bounce"
)

// Cell is one line of the table: a way to take guest memory in.
type Cell struct {
	Memory Kind   `json:"memory"`
	Policy Policy `json:"policy"`
	Path   Path   `json:"path"`
}

// Cells returns the whole table in the order in which it is reported.
func Cells() []Cell {
	var cells []Cell
	for _, k := range kinds() {
		for _, path := range []Path{Direct, Bounce} {
			for _, p := range []Policy{ScanZeros, ReceivedBitmap} {
				cells = append(cells, Cell{k, p, path})
			}
		}
	}
	return cells
}
