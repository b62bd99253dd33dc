package snapshot

import (
	"context"
	"slices"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/multifd"
)

// openDevice lets the accelerator, if there is one, deflate the lane's pages.
func (l *lane) openDevice() error {
	acc := l.w.opts.Accelerator
	level := 0
	if l.w.opts.Store == StoreDense {
		level = multifd.LevelDense
	}
	c, err := acc.Channel(multifd.ChannelConfig{PageSize: l.pageSize, Level: level, Accelerator: acc})
	if c == nil || err != nil {
		return err
	}
	l.device = c
	l.w.mu.Lock()
	l.w.devices = append(l.w.devices, c)
	l.w.mu.Unlock()
	return nil
}

func (l *lane) closeDevice() {
	if l.device == nil {
		return
	}
	l.w.mu.Lock()
	l.w.devices = slices.DeleteFunc(l.w.devices, func(c *hybrid.Channel) bool { return c == l.device })
	l.w.mu.Unlock()
	l.w.opts.Accelerator.Cleanup(l.device)
	l.device = nil
}

// commitOnDevice is Commit with all pages of a packet deflated at once.
func (l *lane) commitOnDevice() error {
	var offsets []uint64
	var pages [][]byte
	for i, off := range l.offsets {
		if deflate.IsZero(l.pages[i]) {
			l.w.tables[l.at.Index].put(off/uint64(l.pageSize), 0)
			continue
		}
		offsets, pages = append(offsets, off), append(pages, l.pages[i])
	}
	if len(pages) == 0 {
		return nil
	}
	packet, err := l.device.Compress(pages)
	if err != nil {
		return err
	}
	defer packet.Release()
	// Jobs end by themselves: each has a deadline in the driver.
	if err := packet.Finish(context.Background()); err != nil {
		return err
	}
	for i, data := range packet.Outputs() {
		if data == nil { // it does not shrink
			data = pages[i]
		}
		if err := l.begin(l.at); err != nil {
			return err
		}
		if err := l.add(offsets[i], data); err != nil {
			return err
		}
	}
	return nil
}
