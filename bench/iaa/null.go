package main

import (
	"errors"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// nullSystem is a machine with a device that completes each descriptor at once: before the
// submission returns, the completion record says success with an output of one byte. So a
// run takes the time of the driver.
type nullSystem struct {
	*iaamodel.Machine // for the sysfs tree and memory
	start             time.Time
	dir               string

	mu      sync.Mutex
	records map[uint64]*iaa.Record
	regions [][]byte
}

func newNullSystem() (*nullSystem, iaa.Options, error) {
	dir, err := os.MkdirTemp("", "vmferry-null-iaa")
	if err != nil {
		return nil, iaa.Options{}, err
	}
	m, err := iaamodel.New(dir, iaamodel.Uniform(1, nil))
	if err != nil {
		return nil, iaa.Options{}, errors.Join(err, os.RemoveAll(dir))
	}
	n := &nullSystem{Machine: m, start: time.Now(), dir: dir, records: make(map[uint64]*iaa.Record)}
	opts := m.Options()
	opts.System = n
	return n, opts, nil
}

func (n *nullSystem) remove() error { return errors.Join(n.Close(), os.RemoveAll(n.dir)) }

// OpenQueue opens the only queue.
func (n *nullSystem) OpenQueue(string) (iaa.Node, error) { return nullNode{n}, nil }

// Map maps memory and records the region.
func (n *nullSystem) Map(size int, populate bool) ([]byte, error) {
	mem, err := n.Machine.Map(size, populate)
	if err == nil {
		n.mu.Lock()
		n.regions = append(n.regions, mem)
		n.mu.Unlock()
	}
	return mem, err
}

// Copy copies.
func (n *nullSystem) Copy(dst, src []byte) { copy(dst, src) }

// Now returns the time since the start.
func (n *nullSystem) Now() time.Duration { return time.Since(n.start) }

// Relax does nothing: every job is complete.
func (n *nullSystem) Relax(*uint32, uint32, int) {}

// record returns the completion record at an address, and caches it.
func (n *nullSystem) record(addr uint64) *iaa.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.records[addr]; r != nil {
		return r
	}
	for _, mem := range n.regions {
		base := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
		if base <= addr && addr+iaa.DescriptorSize <= base+uint64(len(mem)) {
			r := (*iaa.Record)(unsafe.Pointer(&mem[addr-base]))
			n.records[addr] = r
			return r
		}
	}
	return nil
}

type nullNode struct{ n *nullSystem }

func (q nullNode) Map() (iaa.Portal, error) { return q, nil }

func (q nullNode) Write(d []iaa.Descriptor) (int, error) { return len(d), nil }

func (q nullNode) Close() error { return nil }

func (q nullNode) Store(_ int, d *iaa.Descriptor) { q.Enqueue(0, d) }

func (q nullNode) Enqueue(_ int, d *iaa.Descriptor) bool {
	r := q.n.record(d.Record)
	if r == nil {
		return false
	}
	r.BytesCompleted, r.OutputSize = d.Src1Size, 1
	r.Store(iaa.Completion{Status: iaa.StatusSuccess})
	return true
}
