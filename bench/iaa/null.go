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

// nullSystem is a machine whose device does nothing in no time: a descriptor's
// record says success, with an output of one byte, before its submission
// returns. What remains is the driver.
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

// Map maps memory and remembers it.
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

// Now is the time.
func (n *nullSystem) Now() time.Duration { return time.Since(n.start) }

// Relax has nothing to wait for.
func (n *nullSystem) Relax(*uint32, uint32, int) {}

// record finds the record at an address, by a look-up after the first time.
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
