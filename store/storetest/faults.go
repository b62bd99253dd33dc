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

// ErrNoSpace is what a write fails with when the bucket is full, as on a disk.
var ErrNoSpace error = unix.ENOSPC

type faults struct {
	planned map[Op]map[string]error
	limited bool
	left    int64
}

func newFaults() faults { return faults{planned: map[Op]map[string]error{}} }

// at returns the error that was planned for the operation.
func (f *faults) at(op Op, name string) error {
	err := f.planned[op][name]
	if err == nil {
		err = f.planned[op][""]
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}

// room returns how many of n bytes still fit.
func (f *faults) room(n int) (int, error) {
	if !f.limited || int64(n) <= f.left {
		f.left -= int64(n)
		return n, nil
	}
	fit := int(f.left)
	f.left = 0
	return fit, fmt.Errorf("write: %w", ErrNoSpace)
}

// Fail makes every op of the object of that name fail with err, or, with the
// name "", of every object. A nil err takes it back.
func (b *Bucket) Fail(op Op, name string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.faults.planned[op] == nil {
		b.faults.planned[op] = map[string]error{}
	}
	b.faults.planned[op][name] = err
}

// FillAfter leaves room for n more bytes in all objects together: the write
// that does not fit is cut short and fails with ErrNoSpace, and so does every
// write after it.
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

// Truncate cuts a committed object to its first size bytes.
func (b *Bucket) Truncate(name string, size int) {
	b.change(name, func(data []byte) []byte { return data[:size] })
}

// Extend puts data behind a committed object.
func (b *Bucket) Extend(name string, data []byte) {
	b.change(name, func(old []byte) []byte { return append(old, data...) })
}

// change replaces an object by what f makes of a copy of it, so that objects
// that are open, and clones, keep what they had.
func (b *Bucket) change(name string, f func([]byte) []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, there := b.objects[name]
	if !there {
		panic("storetest: there is no object " + name + " to change")
	}
	b.objects[name] = f(bytes.Clone(data))
}
