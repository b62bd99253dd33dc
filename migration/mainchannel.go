package migration

import (
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/vmstate"
)

// The methods Setup, SyncPoint, Zero and Page implement vmstate.Handler.

// Setup implements vmstate.Handler.
func (in *Inbound) Setup(l *guest.Layout, _ vmstate.SyncMode) error {
	if err := in.cfg.Sink.Setup(l); err != nil {
		return err
	}
	if in.cfg.Handover != nil || in.hasPing(vmstate.HandoverRequest) {
		in.namedPages = newNamedPages(l)
	}
	// For speed only: the device copies the pages of unregistered memory.
	if mem, ok := in.cfg.Sink.(*guestmem.Memory); ok && in.cfg.Method == multifd.QPL {
		blocks := make([][]byte, len(l.Blocks))
		for i, b := range l.Blocks {
			blocks[i] = mem.Bytes(b)
		}
		release, err := in.cfg.Accelerator.Register(blocks)
		if err != nil {
			return err
		}
		in.releaseMemory = release
	}
	lane, err := in.cfg.Sink.Lane()
	if err != nil {
		return err
	}
	in.mainLane = lane
	// No channel has pages before the first sync point, and each waits there; so
	// all see their lane.
	for _, c := range in.channels {
		lane, err := in.cfg.Sink.Lane()
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.lane = lane
		c.mu.Unlock()
	}
	return nil
}

// waitForOthers calls f, which waits for a multifd channel and so for the source.
func (in *Inbound) waitForOthers(f func()) {
	defer in.watch.Main().WaitForOthers()()
	f()
}

// SyncPoint implements vmstate.Handler.
func (in *Inbound) SyncPoint() (err error) {
	if in.waitForOthers(func() { err = in.rendezvous.wait(in.ctx, packetNumbers{}) }); err != nil {
		return err
	}
	if err := in.rendezvous.checkPackets(); err != nil {
		return err
	}
	if in.cfg.Counters.SyncPoints.Add(1); in.cfg.Handover != nil && in.hasPing(vmstate.HandoverRequest) {
		go in.closeAccept() // endAccept waits for its end
	}
	return nil
}

// closeAccept stops accepting. A source that hands over makes all its connections
// before its first sync point, so the last wait for connections need not extend its
// downtime.
func (in *Inbound) closeAccept() { in.closed.Do(in.acc.CloseAccept) }

func (in *Inbound) offsetSlice(offset uint64) []uint64 {
	in.oneOffset[0] = offset
	return in.oneOffset[:]
}

// Zero implements vmstate.Handler.
func (in *Inbound) Zero(b *guest.Block, offset uint64) error {
	in.cfg.Counters.Zero.Add(1)
	in.namedPages.add(b, in.offsetSlice(offset))
	return in.mainLane.Zero(b, in.offsetSlice(offset))
}

// Page implements vmstate.Handler.
func (in *Inbound) Page(b *guest.Block, offset uint64, data []byte) error {
	in.cfg.Counters.Normal.Add(1)
	in.namedPages.add(b, in.offsetSlice(offset))
	pages, err := in.mainLane.Pages(b, in.offsetSlice(offset))
	if err != nil {
		return err
	}
	copy(pages[0], data)
	return in.mainLane.Commit()
}
