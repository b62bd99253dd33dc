package iaamodel

import (
	"fmt"
	"slices"
	"sync"
	"unsafe"
)

const pageSize = 4096

// pageState is a page table entry.
type pageState uint8

const (
	present   pageState = 1 << iota
	writable            // or becomes writable when touched for writing, unless readOnly
	readOnly            // can never be written
	unfixable           // the kernel cannot make it present for a device, a processor can
)

// region is a range of memory that the page table describes.
type region struct {
	base  uint64
	mem   []byte
	pages []pageState
}

func (r *region) end() uint64 { return r.base + uint64(len(r.mem)) }

// memory is the machine's page table. For devices, memory that it does not describe is
// not mapped, above all the Go heap.
type memory struct {
	mu      sync.RWMutex // engines hold it for reading while they use memory
	regions []*region
}

func addressOf(mem []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
}

// add describes mem, whose pages are all present or all absent.
func (m *memory) add(mem []byte, here bool) error {
	base := addressOf(mem)
	if len(mem) == 0 || base%pageSize != 0 || len(mem)%pageSize != 0 {
		return fmt.Errorf("iaamodel: memory of %d bytes at %#x: want whole pages", len(mem), base)
	}
	r := &region{base: base, mem: mem, pages: make([]pageState, len(mem)/pageSize)}
	if here {
		for i := range r.pages {
			r.pages[i] = present | writable
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.regions = append(m.regions, r)
	slices.SortFunc(m.regions, func(a, b *region) int {
		if a.base < b.base {
			return -1
		}
		return 1
	})
	return nil
}

// remove removes mem, when no engine uses memory.
func (m *memory) remove(mem []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.regions, func(r *region) bool { return r.base == addressOf(mem) })
	if i < 0 {
		return false
	}
	m.regions = slices.Delete(m.regions, i, i+1)
	return true
}

// find returns the region that holds all of addr to addr+n; mu is held.
func (m *memory) find(addr uint64, n int) *region {
	lo, hi := 0, len(m.regions)
	for lo < hi {
		if mid := (lo + hi) / 2; m.regions[mid].end() <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(m.regions) {
		return nil
	}
	if r := m.regions[lo]; r.base <= addr && addr+uint64(n) <= r.end() && addr+uint64(n) >= addr {
		return r
	}
	return nil
}

// fault is an access that the page table does not allow.
type fault struct {
	addr  uint64
	write bool
	fixed int // pages that the kernel can make present or writable

	remapped int // of those, pages that are present: their mapping changes
	never    bool
}

// access translates a device's access. mu is held for reading.
func (m *memory) access(addr uint64, n int, write bool) ([]byte, *fault) {
	r := m.find(addr, n)
	if r == nil {
		return nil, &fault{addr: addr, write: write, never: true}
	}
	off := int(addr - r.base)
	var f *fault
	for p := off / pageSize; p <= (off+n-1)/pageSize; p++ {
		s := r.pages[p]
		if s&present != 0 && (!write || s&writable != 0) {
			continue
		}
		if f == nil {
			f = &fault{addr: max(addr, r.base+uint64(p)*pageSize), write: write}
		}
		f.fixed++
		if s&present != 0 {
			f.remapped++
		}
		f.never = f.never || s&unfixable != 0 || write && s&readOnly != 0
	}
	return r.mem[off : off+n : off+n], f
}

// set changes the entries of the pages that hold addr to addr+n.
func (m *memory) set(addr uint64, n int, change func(pageState) pageState) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.setLocked(addr, n, change)
}

func (m *memory) setLocked(addr uint64, n int, change func(pageState) pageState) bool {
	r := m.find(addr, n)
	if r == nil || n == 0 {
		return false
	}
	off := int(addr - r.base)
	for p := off / pageSize; p <= (off+n-1)/pageSize; p++ {
		r.pages[p] = change(r.pages[p])
	}
	return true
}

// touched returns the state of a page after an access of the processor: present, and
// writable once written. A page that is only read becomes present and write-protected,
// like an anonymous page that maps the zero page.
func touched(write bool) func(pageState) pageState {
	return func(s pageState) pageState {
		s = s&^unfixable | present
		if write && s&readOnly == 0 {
			s |= writable
		}
		return s
	}
}

func evicted(s pageState) pageState { return s &^ (present | writable) }

// live returns the number of regions.
func (m *memory) live() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.regions)
}

// heapPages returns zeroed page-aligned memory of the Go heap.
func heapPages(size int) []byte {
	buf := make([]byte, size+pageSize)
	skip := int(-addressOf(buf) & (pageSize - 1))
	return buf[skip : skip+size : skip+size]
}
