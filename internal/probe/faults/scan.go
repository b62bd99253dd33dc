package faults

import (
	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// scanning is a sink that reads every zero page in memory, and clears it if it is not zero.
// It does so even if no data arrived for the page, which guestmem.Memory avoids.
type scanning struct {
	guest.Sink
	m *guestmem.Memory
}

func (s scanning) Lane() (guest.Lane, error) {
	lane, err := s.Sink.Lane()
	return scanLane{lane, s.m}, err
}

// scanLane embeds the interface, so it has no method Stable, which no caller here needs.
type scanLane struct {
	guest.Lane
	m *guestmem.Memory
}

// Zero reads each page and clears it if it is not zero. Reading a page that is not present
// maps the kernel's zero page.
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
