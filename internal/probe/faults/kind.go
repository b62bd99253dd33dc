package faults

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// Kind is how guest memory is mapped and made present.
type Kind string

const (
	None     Kind = "none"     // small pages, none of them present
	Touch    Kind = "touch"    // small pages, each written to
	Populate Kind = "populate" // small pages, by MADV_POPULATE_WRITE
	HugeTLB  Kind = "hugetlb"  // pages of 2 MiB from the pool, populated
	// Transparent is memory that is not preallocated and for which the kernel may use
	// transparent huge pages.
	Transparent Kind = "transparent"
	// PrivateFile is a private mapping of a memfd that is not preallocated, as with
	// QEMU's memory-backend-memfd,share=off. A read maps the page of the file, and a
	// later write copies it. None behaves the same on kernels with a shared zero page.
	PrivateFile Kind = "private memfd"
)

// kinds lists all kinds in the order of the report.
var kinds = []Kind{None, PrivateFile, Touch, Populate, HugeTLB, Transparent}

// options are the options of guestmem.Memory for each kind except PrivateFile.
var options = map[Kind]guestmem.Options{
	None:        {},
	Touch:       {Prealloc: guestmem.PreallocTouch},
	Populate:    {Prealloc: guestmem.PreallocPopulate},
	HugeTLB:     {Pages: guestmem.HugeTLB, HugePageSize: hugePage, Prealloc: guestmem.PreallocPopulate},
	Transparent: {Pages: guestmem.TransparentHuge},
}

// memory maps memory for the layout, which has one block. The caller must call unmap.
func (k Kind) memory(l *guest.Layout) (m *guestmem.Memory, unmap func() error, err error) {
	if k == PrivateFile {
		return privateFile(l)
	}
	if m, err = guestmem.NewWith(l, options[k]); err != nil {
		return nil, nil, err
	}
	return m, m.Close, nil
}

func privateFile(l *guest.Layout) (*guestmem.Memory, func() error, error) {
	size := l.Size()
	fd, err := unix.MemfdCreate("vmferry-bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("faults: making a memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "vmferry-bench")
	defer f.Close() // the mapping holds the file
	if err := f.Truncate(int64(size)); err != nil {
		return nil, nil, fmt.Errorf("faults: giving a memfd %d bytes: %w", size, err)
	}
	mem, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, nil, fmt.Errorf("faults: mapping %d bytes of a memfd: %w", size, err)
	}
	m := &guestmem.Memory{Map: func(*guest.Block) ([]byte, error) { return mem, nil }}
	if err := m.Setup(l); err != nil {
		return nil, nil, errors.Join(err, unix.Munmap(mem))
	}
	return m, func() error { return errors.Join(m.Close(), unix.Munmap(mem)) }, nil
}

// Policy is what a destination does with a zero page that arrives.
type Policy string

const (
	// ScanZeros reads the page and clears it if it is not zero. Earlier versions of
	// QEMU do so.
	ScanZeros Policy = "scan zeros"
	// ReceivedBitmap does not access a page if no data arrived for it before.
	// guestmem.Memory does so.
	ReceivedBitmap Policy = "received bitmap"
)

// Path is the path of pages to guest memory.
type Path string

const (
	// Direct inflates into guest memory.
	Direct Path = "direct"
	// Bounce inflates into a buffer and copies the pages: guestmem.Bounced.
	Bounce Path = "bounce"
)

// Cell is one line of the table: a combination of memory, policy and path.
type Cell struct {
	Memory Kind   `json:"memory"`
	Policy Policy `json:"policy"`
	Path   Path   `json:"path"`
}

// Cells returns all cells in the order of the report.
func Cells() []Cell {
	var cells []Cell
	for _, k := range kinds {
		for _, path := range []Path{Direct, Bounce} {
			for _, p := range []Policy{ScanZeros, ReceivedBitmap} {
				cells = append(cells, Cell{k, p, path})
			}
		}
	}
	return cells
}
