package storetest

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// Op is an operation that [Bucket.Fail] makes fail.
type Op string

// The operations of a bucket and of its objects.
const (
	Create Op = "create"
	Write  Op = "write"
	Seal   Op = "seal"
	Commit Op = "commit"
	Abort  Op = "abort"
	Open   Op = "open"
	Read   Op = "read"
	Remove Op = "remove"
	List   Op = "list"
)

// ErrNoSpace is wrapped by the error of a write to a full bucket: ENOSPC, as on a full
// disk.
var ErrNoSpace error = unix.ENOSPC

type faults struct {
	errs    map[Op]map[string]error
	limited bool
	left    int64
}

func newFaults() faults { return faults{errs: map[Op]map[string]error{}} }

// planned returns the error that was planned for the operation, or nil.
func (f *faults) planned(op Op, name string) error {
	err := f.errs[op][name]
	if err == nil {
		err = f.errs[op][""]
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}

// reserve returns how many of n bytes fit, with an error if not all do.
func (f *faults) reserve(n int) (int, error) {
	if !f.limited || int64(n) <= f.left {
		f.left -= int64(n)
		return n, nil
	}
	fit := int(f.left)
	f.left = 0
	return fit, fmt.Errorf("write: %w", ErrNoSpace)
}

// Fail makes every operation op of the named object fail with an error that wraps err.
// The name "" selects every object. A nil err ends the failures.
func (b *Bucket) Fail(op Op, name string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.faults.errs[op] == nil {
		b.faults.errs[op] = map[string]error{}
	}
	b.faults.errs[op][name] = err
}

// FillAfter limits the bucket to n more bytes in all objects together. The write that
// exceeds the limit is cut short and fails with ErrNoSpace. Later writes also fail.
func (b *Bucket) FillAfter(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults.limited, b.faults.left = true, n
}

// FlipBit inverts one bit of a committed object: bit%8 of byte bit/8.
func (b *Bucket) FlipBit(name string, bit int) {
	b.change(name, func(data []byte) []byte {
		data[bit/8] ^= 1 << (bit % 8)
		return data
	})
}

// Truncate truncates a committed object to size bytes.
func (b *Bucket) Truncate(name string, size int) {
	b.change(name, func(data []byte) []byte { return data[:size] })
}

// Extend appends data to a committed object.
func (b *Bucket) Extend(name string, data []byte) {
	b.change(name, func(old []byte) []byte { return append(old, data...) })
}

// change applies f to a copy of an object and replaces the object by the result. Open
// objects and clones keep the old content.
func (b *Bucket) change(name string, f func([]byte) []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, there := b.objects[name]
	if !there {
		panic("storetest: object " + name + " does not exist")
	}
	b.objects[name] = f(bytes.Clone(data))
}
