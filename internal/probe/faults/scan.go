package faults

import (
	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// scanning is a sink that looks at every zero page before it decides what to do
// with it, whether data came for the page or not. It is what guestmem.Memory
// exists to be better than.
type scanning struct {
	guest.Sink
	m *guestmem.Memory
}

func (s scanning) Lane() (guest.Lane, error) {
	lane, err := s.Sink.Lane()
	return scanLane{lane, s.m}, err
}

// scanLane embeds the interface, so that it has no Stable, which no caller here needs.
type scanLane struct {
	guest.Lane
	m *guestmem.Memory
}

// Zero reads each page, which maps the kernel's own zero page where there is
// none yet, and writes only to pages that are not zero.
func (l scanLane) Zero(b *guest.Block, offsets []uint64) error {
	layout := l.m.Layout()
	mem, size := l.m.Bytes(b), uint64(layout.PageSize)
	for _, off := range offsets {
		if err := layout.CheckOffset(b, off); err != nil {
			return err
		}
		if page := mem[off : off+size]; !deflate.IsZero(page) {
			clear(page)
		}
	}
	return nil
}
