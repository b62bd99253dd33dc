package migration

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// channel is one multifd channel. mu is held while a packet is put into the lane, so
// that the lane is not closed meanwhile.
type channel struct {
	id      int
	recv    *multifd.Receiver
	link    *transport.Link
	bytes   uint64
	packets packetNumbers // since the channel's last sync point

	mu         sync.Mutex
	lane       guest.Lane
	ended      bool // the main channel has ended: no more pages
	extraSyncs int
}

func (in *Inbound) closeChannels() {
	for _, c := range in.channels {
		c.recv.Close()
	}
}

var errNoSyncPoint = errors.New("the main channel has no sync point for this SYNC")

// readChannel reads one multifd channel to its end.
func (in *Inbound) readChannel(c *channel) error {
	for first := true; ; {
		packet, state, err := c.recv.Next()
		came := c.recv.Bytes() - c.bytes
		in.cfg.Counters.Bytes.Add(came)
		c.bytes += came
		if err == nil {
			err = in.cfg.Pace.wait(in.ctx, came)
		}
		switch {
		case err == io.EOF:
			// Correct at the end; an error if a sync point follows.
			in.rendezvous.fail(&multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "SYNC",
				Err: fmt.Errorf("%w: the source closed the channel before the end of the main channel", multifd.ErrTruncated)})
			return nil
		case err != nil:
			if in.allReceived.Load() {
				return nil // the deadline of closeWait, or this side closed the channel
			}
			return err
		case state != nil:
			in.keepState(state)
			continue
		}
		c.packets.add(packet)
		if err := in.takePages(c, packet); err != nil {
			return err
		}
		if !packet.Sync() {
			continue
		}
		if err := c.recv.Flush(); err != nil {
			return err
		}
		if err := in.meetChannel(c); err != nil {
			return err
		}
		if first {
			first = false
			if l := in.main.Layout(); l != nil {
				c.recv.SetLayout(l)
			}
		}
	}
}

// takePages puts the packet's pages into the lane.
func (in *Inbound) takePages(c *channel, p *multifd.Packet) error {
	if len(p.Normal)+len(p.Zero) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return &multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "normal_pages",
			Err: fmt.Errorf("%w: pages after the last sync point", multifd.ErrMalformed)}
	}
	if err := c.recv.Receive(c.lane); err != nil {
		return err
	}
	in.namedPages.add(p.Block, p.Normal)
	in.namedPages.add(p.Block, p.Zero)
	in.cfg.Counters.Normal.Add(uint64(len(p.Normal)))
	in.cfg.Counters.Zero.Add(uint64(len(p.Zero)))
	return nil
}

// meetChannel waits at a SYNC for all other channels.
func (in *Inbound) meetChannel(c *channel) error {
	resume := c.link.WaitForOthers()
	err := in.rendezvous.wait(in.ctx, c.packets)
	resume()
	c.packets = c.packets.afterSync()
	if errors.Is(err, errNoSyncPoint) {
		c.mu.Lock()
		c.extraSyncs++
		c.mu.Unlock()
		return nil
	}
	var ce *multifd.ChannelError
	if err != nil && errors.As(err, &ce) {
		return err // names another channel, which has failed
	}
	if err != nil {
		return &multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "SYNC", Err: err}
	}
	return nil
}

// keepState keeps a device-state packet, which the budget has allowed.
func (in *Inbound) keepState(s *devicestate.Packet) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.states = append(in.states, *s)
}
