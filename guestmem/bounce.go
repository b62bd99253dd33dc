package guestmem

import (
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/guest"
)

// Bounced returns a sink into m that buffers pages: Pages returns a prefaulted
// buffer, and Commit copies from the buffer to m.
//
// Bounced is for a device that fills pages and for which a page fault costs far
// more than for the processor. With Bounced the processor takes the page faults of
// m, in Commit, at the cost of a copy. There is no gain if m is preallocated.
//
// Each lane holds a buffer of guest.PacketBytes until Close. A call of Pages for
// more than that grows the buffer. Lane and Pages return an error that wraps
// ErrNoMemory if there is no memory for the buffer.
func Bounced(m *Memory) guest.Sink { return bounced{m} }

type bounced struct{ m *Memory }

func (s bounced) Setup(l *guest.Layout) error { return s.m.Setup(l) }

func (s bounced) Lane() (guest.Lane, error) {
	in, err := s.m.Lane()
	if err != nil {
		return nil, err
	}
	l := &bounceLane{in: in, pageSize: s.m.layout.PageSize}
	if err := l.growBuffer(guest.PacketBytes); err != nil {
		return nil, err
	}
	return l, nil
}

// bounceLane is not a StableLane, because a page that is filled after Commit does
// not reach the memory.
type bounceLane struct {
	in       guest.Lane
	pageSize int
	buffer   mapping
	// From Pages to Commit, pages[i] in the buffer belongs to to[i] in the memory.
	pages, to [][]byte
}

// growBuffer grows the buffer to at least size bytes.
func (l *bounceLane) growBuffer(size int) error {
	if size <= len(l.buffer.mem) {
		return nil
	}
	larger, err := mapMemory("bounce", uint64(size), &Options{Prealloc: PreallocPopulate, Workers: 1})
	if err != nil {
		return fmt.Errorf("guestmem: mapping a bounce buffer of %d KiB: %w", size>>10, err)
	}
	if err := l.buffer.unmap(); err != nil {
		return errors.Join(fmt.Errorf("guestmem: unmapping a bounce buffer: %w", err), larger.unmap())
	}
	l.buffer = larger
	return nil
}

func (l *bounceLane) Pages(b *guest.Block, offsets []uint64) ([][]byte, error) {
	l.pages, l.to = l.pages[:0], nil
	if err := l.growBuffer(len(offsets) * l.pageSize); err != nil {
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

// Commit copies the buffer to the memory, and takes the page faults of absent pages.
func (l *bounceLane) Commit() error {
	for i, to := range l.to {
		copy(to, l.pages[i])
	}
	l.to = nil
	return l.in.Commit()
}

func (l *bounceLane) Zero(b *guest.Block, offsets []uint64) error { return l.in.Zero(b, offsets) }

// Close unmaps the buffer and discards pages that were not committed.
func (l *bounceLane) Close() error {
	l.pages, l.to = nil, nil
	err := l.in.Close()
	if bad := l.buffer.unmap(); bad != nil {
		err = errors.Join(err, fmt.Errorf("guestmem: unmapping a bounce buffer: %w", bad))
	}
	return err
}
