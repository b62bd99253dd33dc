package guestmem

import (
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/guest"
)

// Bounced returns a sink into m whose pages are put together elsewhere: Pages
// gives out a buffer that is present from the start, Commit copies from it.
//
// It is for whoever fills pages and must not fault on them, such as a device
// for which a fault costs far more than for the processor: here the processor
// takes the faults of m, in Commit, for the price of a copy. Where m is
// preallocated there is nothing to gain.
//
// Each lane holds a buffer of PacketBytes until Close. More pages at a time
// than that make it larger, once. A lane fails to open, with ErrNoMemory in the
// error, when there is no memory for the buffer.
func Bounced(m *Memory) guest.Sink { return bounced{m} }

type bounced struct{ m *Memory }

func (s bounced) Setup(l *guest.Layout) error { return s.m.Setup(l) }

func (s bounced) Lane() (guest.Lane, error) {
	in, err := s.m.Lane()
	if err != nil {
		return nil, err
	}
	l := &bounceLane{in: in, pageSize: s.m.layout.PageSize}
	if err := l.room(guest.PacketBytes); err != nil {
		return nil, err
	}
	return l, nil
}

// bounceLane is not a StableLane: a page that is filled after Commit would not
// reach the memory.
type bounceLane struct {
	in       guest.Lane
	pageSize int
	buffer   mapping
	// pages[i] in the buffer is for to[i] in the memory, from Pages to Commit.
	pages, to [][]byte
}

// room sees to it that the buffer has size bytes.
func (l *bounceLane) room(size int) error {
	if size <= len(l.buffer.mem) {
		return nil
	}
	larger, err := mapMemory("bounce", uint64(size), &Options{Prealloc: PreallocPopulate, Workers: 1})
	if err != nil {
		return fmt.Errorf("guestmem: a bounce buffer of %d KiB: %w", size>>10, err)
	}
	if err := l.buffer.unmap(); err != nil {
		return errors.Join(fmt.Errorf("guestmem: unmapping a bounce buffer: %w", err), larger.unmap())
	}
	l.buffer = larger
	return nil
}

func (l *bounceLane) Pages(b *guest.Block, offsets []uint64) ([][]byte, error) {
	l.pages, l.to = l.pages[:0], nil
	if err := l.room(len(offsets) * l.pageSize); err != nil {
		return nil, err
	}
	to, err := l.in.Pages(b, offsets)
	if err != nil {
		return nil, err
	}
	l.to = to
	for i := range offsets {
		at := i * l.pageSize
		l.pages = append(l.pages, l.buffer.mem[at:at+l.pageSize:at+l.pageSize])
	}
	return l.pages, nil
}

// Commit copies, which is where pages that are not present cost their fault.
func (l *bounceLane) Commit() error {
	for i, to := range l.to {
		copy(to, l.pages[i])
	}
	l.to = nil
	return l.in.Commit()
}

func (l *bounceLane) Zero(b *guest.Block, offsets []uint64) error { return l.in.Zero(b, offsets) }

// Close gives the buffer back. Pages that were not committed are not kept.
func (l *bounceLane) Close() error {
	l.pages, l.to = nil, nil
	err := l.in.Close()
	if bad := l.buffer.unmap(); bad != nil {
		err = errors.Join(err, fmt.Errorf("guestmem: unmapping a bounce buffer: %w", bad))
	}
	return err
}
