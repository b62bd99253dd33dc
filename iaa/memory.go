package iaa

import (
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

const osPage = 4096

// region is a range of addresses that devices may access.
type region struct{ start, end uintptr }

// registry holds the memory that devices may access in place: memory that stays mapped.
// Lookups are frequent and lock-free, changes are rare.
type registry struct {
	mu      sync.Mutex
	regions atomic.Pointer[[]region] // sorted, not overlapping
}

func span(mem []byte) region {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	return region{start, start + uintptr(len(mem))}
}

func (r *registry) list() []region {
	if p := r.regions.Load(); p != nil {
		return *p
	}
	return nil
}

func (r *registry) add(mem []byte) error {
	if len(mem) == 0 {
		return errors.New("iaa: register: no memory")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := span(mem)
	old := r.list()
	i, _ := slices.BinarySearchFunc(old, n, compareRegions)
	if i > 0 && old[i-1].end > n.start || i < len(old) && old[i].start < n.end {
		return fmt.Errorf("iaa: register %d bytes at %#x: overlaps registered memory", len(mem), n.start)
	}
	list := slices.Insert(slices.Clone(old), i, n)
	r.regions.Store(&list)
	return nil
}

func (r *registry) remove(mem []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.list()
	i := slices.Index(old, span(mem))
	if i < 0 {
		return false
	}
	list := slices.Delete(slices.Clone(old), i, i+1)
	r.regions.Store(&list)
	return true
}

func compareRegions(a, b region) int { return cmp.Compare(a.start, b.start) }

// holds reports whether all of mem lies in one registered range.
func (r *registry) holds(mem []byte) bool {
	m := span(mem)
	list := r.list()
	lo, hi := 0, len(list)
	for lo < hi {
		if mid := (lo + hi) / 2; list[mid].end <= m.start {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(list) && list[lo].start <= m.start && m.end <= list[lo].end
}

// Memory is memory that devices may read and write, mapped outside the Go heap.
type Memory struct {
	dev   *Device
	bytes []byte
	freed atomic.Bool
}

// Bytes returns the memory. It must not be used after Free.
func (m *Memory) Bytes() []byte { return m.bytes }

// Free unmaps the memory. No job may be using it.
func (m *Memory) Free() error {
	if m.freed.Swap(true) {
		return nil
	}
	m.dev.mem.remove(m.bytes)
	return m.dev.sys.Unmap(m.bytes)
}

// Keep is called instead of Free if a job that never completed may still use the
// memory. Device.Close frees it.
func (m *Memory) Keep() {
	if m.freed.Swap(true) {
		return
	}
	m.dev.mem.remove(m.bytes)
	m.dev.mu.Lock()
	defer m.dev.mu.Unlock()
	m.dev.kept = append(m.dev.kept, m.bytes)
}

// address returns the address of mem. The caller keeps mem reachable.
func address(mem []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
}

// word returns the aligned 32-bit word that holds mem[off].
func word(mem []byte, off int) *uint32 {
	p := unsafe.Pointer(&mem[off])
	return (*uint32)(unsafe.Add(p, -int(uintptr(p)&3)))
}

// touch makes every page of mem present, and writable if write is set. Memory that the
// processor cannot access either (a truncated file, an unmapped range) gives an error
// and not a crash.
func touch(sys System, mem []byte, write bool) (err error) {
	if len(mem) == 0 {
		return nil
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(interface{ Addr() uintptr })
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("%w at %#x", ErrAddress, f.Addr())
		}
	}()
	toNext := osPage - int(span(mem).start%osPage)
	for off := 0; off < len(mem); off, toNext = off+toNext, osPage {
		sys.Touch(word(mem, off), write)
	}
	return nil
}
