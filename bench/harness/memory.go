package harness

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/internal/machine"
)

const (
	PageSize = machine.PageSize
	// poolPages is the number of different pages. Memory consists of copies of them,
	// because making a page takes longer than migrating it. Two copies of a page are
	// further apart than the window of any compression method here.
	poolPages = 4096
	// zonePages is the number of pages of a zone, which begins with data pages and ends
	// with zero pages.
	zonePages = 1024
)

func newLayout(bytes uint64) (*guest.Layout, error) {
	return guest.NewLayout(PageSize, []guest.Block{{Name: "ram", Length: bytes}})
}

// NewMemory returns the memory of the source.
func NewMemory(j Job) (*guestmem.Memory, error) {
	l, err := newLayout(j.memory())
	if err != nil {
		return nil, err
	}
	m, err := guestmem.NewWith(l, guestmem.Options{Pages: j.Pages})
	if err != nil {
		return nil, err
	}
	fill(m.Bytes(l.Blocks[0]), j)
	return m, nil
}

// fill writes the data pages of each zone. Each data page holds its number, so that no two
// are equal.
func fill(ram []byte, j Job) {
	pool := newPool(min(poolPages, len(ram)/PageSize))
	data := zonePages * j.DataMiB / j.MemoryMiB
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for zone := 0; zone < len(ram); zone += zonePages * PageSize {
		group.Go(func() error {
			for at := zone; at < min(zone+data*PageSize, len(ram)); at += PageSize {
				n := at / PageSize
				copy(ram[at:at+PageSize], pool[n*PageSize%len(pool):])
				binary.LittleEndian.PutUint64(ram[at:], uint64(n)+1)
			}
			return nil
		})
	}
	group.Wait()
}

// newPool makes pages of the same kinds as those of the test guest of package qemutest.
func newPool(pages int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	pool := make([]byte, pages*PageSize)
	for n := range pages {
		corpus.FillGuest(pool[n*PageSize:][:PageSize], uint64(n), r)
	}
	return pool
}

// touch writes to as much memory as the machine has, and frees it. The host of a virtual
// machine may take back memory that was free for a second or two, and provide it again at
// the next access, which takes longer than migrating it. Calling touch before each
// measurement keeps this out of the measurements.
func touch(j Job) (Result, error) {
	l, err := newLayout(j.memory())
	if err != nil {
		return Result{}, err
	}
	m, err := guestmem.NewWith(l, guestmem.Options{Pages: guestmem.TransparentHuge, Prealloc: guestmem.PreallocPopulate})
	if err != nil {
		return Result{}, err
	}
	return Result{}, m.Close()
}

// digest returns a checksum of all of m.
func digest(m *guestmem.Memory) uint32 {
	return crc32.Checksum(m.Bytes(m.Layout().Blocks[0]), crc32.MakeTable(crc32.Castagnoli))
}
