package migration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/vmstate"
)

// destination is one migration on its way in.
type destination struct {
	cfg      *ReceiveConfig
	ctx      context.Context
	acc      *acceptor
	watch    *watch
	refused  chan error   // how refuseMore ended
	release  func() error // takes the accelerator's hold on guest memory back
	meet     *rendezvous
	main     *vmstate.Reader
	mainLane guest.Lane
	named    *namedPages // nil where nobody asks whether all pages came
	channels []*channel
	one      [1]uint64   // for pages that come by the main channel
	done     atomic.Bool // all has arrived and the source was told so
	settled  sync.Once
	decision decision

	mu     sync.Mutex
	states []multifd.DeviceState
}

// channel is one multifd channel. mu is held while a packet is put into the
// lane, so that the end does not come in between.
type channel struct {
	id      int
	recv    *multifd.Receiver
	link    *link
	bytes   uint64
	packets numbers // since its last sync point

	mu    sync.Mutex
	lane  guest.Lane
	over  bool // the main channel is at its end: no more pages
	extra int
}

func (d *destination) closeChannels() {
	for _, c := range d.channels {
		c.recv.Close()
	}
}

// unregister is called when the channels are closed: no job is left.
func (d *destination) unregister() {
	if d.release == nil {
		return
	}
	if err := d.release(); err != nil {
		d.cfg.Logger.Warn("taking guest memory back from the accelerator", "error", err)
	}
}

// runMain reads the main channel to its end, and ends the migration.
func (d *destination) runMain(conns *connections) (*Received, error) {
	err := d.main.Run(d)
	if err == nil {
		d.settle()
		err = <-d.refused
	}
	if err == nil {
		err = d.finish()
	}
	var received *Received
	if err == nil {
		received = d.received(conns)
		if d.wantsHandover() {
			err = d.complete()
		}
	}
	if err == nil {
		err = d.decide()
	}
	if err == nil {
		if d.cfg.Commit != nil {
			err = d.cfg.Commit(received)
		}
	}
	if err == nil && d.cfg.Start != nil {
		switch {
		case d.heard(wordStay):
			err = fmt.Errorf("%w: its machine stays there, and this side was told to start it", ErrSourceGone)
		case d.wantsHandover():
			return received, d.handOver(conns, received)
		default:
			err = d.cfg.Start(received)
		}
	}
	if shutErr := d.main.Shut(err == nil); err == nil && shutErr != nil {
		err = fmt.Errorf("telling the source that all has arrived: %w", shutErr)
	}
	if err != nil {
		return nil, err
	}
	if late := d.letGo(conns); late > 0 && d.main.EndedQuiet() {
		return nil, fmt.Errorf("%w: the source sent %d bytes more of device state behind what looked like its end: what was received is not complete", vmstate.ErrNoDescription, late)
	}
	return received, nil
}

// letGo waits a little for the source to close its connections, and returns how much
// it still sent.
func (d *destination) letGo(conns *connections) (late int64) {
	d.done.Store(true)
	// Let the source close first: one that finds its channels gone may take
	// it for a failure.
	for _, conn := range append([]net.Conn{conns.main}, conns.channels...) {
		conn.SetReadDeadline(time.Now().Add(grace))
	}
	if d.main.ReturnPath() {
		late, _ = io.Copy(io.Discard, conns.main)
	}
	return late
}

// finish closes the lanes: no page comes after it.
func (d *destination) finish() error {
	d.meet.end(errMainDone)
	var first error
	for _, c := range d.channels {
		d.await(c.mu.Lock) // a channel that is inside a packet
		c.over = true
		if c.lane != nil {
			if err := c.lane.Close(); err != nil && first == nil {
				first = err
			}
		}
		c.mu.Unlock()
	}
	if err := d.mainLane.Close(); err != nil && first == nil {
		first = err
	}
	return first
}

func (d *destination) received(conns *connections) *Received {
	r := &Received{
		Head: d.main.Head(), Devices: d.main.Devices(), Config: d.main.Configuration(),
		Layout: d.main.Layout(), SyncMode: d.main.SyncMode(), Commands: d.main.Commands(),
		UUID: conns.uuid, ReturnPath: d.main.ReturnPath(),
	}
	d.mu.Lock()
	r.States = d.states
	d.mu.Unlock()
	for _, c := range d.channels {
		c.mu.Lock()
		r.ExtraSyncs += c.extra
		c.mu.Unlock()
	}
	if r.ExtraSyncs > 0 {
		d.cfg.Logger.Warn("channels carried SYNCs that the main channel had no sync point for", "count", r.ExtraSyncs)
	}
	return r
}

// Setup, SyncPoint, Zero and Page make the destination a vmstate.Handler.

func (d *destination) Setup(l *guest.Layout, _ vmstate.SyncMode) error {
	if err := d.cfg.Sink.Setup(l); err != nil {
		return err
	}
	if d.cfg.Start != nil || d.wantsHandover() {
		d.named = newNamedPages(l)
	}
	// Speed only: the device copies pages into memory that is not registered.
	if mem, ok := d.cfg.Sink.(*guestmem.Memory); ok && d.cfg.Method == multifd.QPL {
		blocks := make([][]byte, len(l.Blocks))
		for i, b := range l.Blocks {
			blocks[i] = mem.Bytes(b)
		}
		release, err := d.cfg.Accelerator.Register(blocks)
		if err != nil {
			return err
		}
		d.release = release
	}
	lane, err := d.cfg.Sink.Lane()
	if err != nil {
		return err
	}
	d.mainLane = lane
	// The channels wait at the first sync point, or have nothing to read
	// before it; they see this once they are past it.
	for _, c := range d.channels {
		lane, err := d.cfg.Sink.Lane()
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.lane = lane
		c.mu.Unlock()
	}
	return nil
}

// await does something that waits for a channel, and so for the source.
func (d *destination) await(f func()) {
	defer d.watch.main().stepAside()()
	f()
}

func (d *destination) SyncPoint() (err error) {
	if d.await(func() { err = d.meet.wait(d.ctx, numbers{}) }); err != nil {
		return err
	}
	if err := d.meet.check(); err != nil {
		return err
	}
	if d.cfg.Progress.SyncPoints.Add(1); d.wantsHandover() && d.cfg.Start != nil {
		go d.settle() // which runMain waits for
	}
	return nil
}

// settle ends the accepting. A source that hands over makes all its connections
// before its first sync point, so that the last look for more of them need not
// come while its machine stands still.
func (d *destination) settle() { d.settled.Do(d.acc.settle) }

func (d *destination) at(offset uint64) []uint64 {
	d.one[0] = offset
	return d.one[:]
}

func (d *destination) Zero(b *guest.Block, offset uint64) error {
	d.cfg.Progress.Zero.Add(1)
	d.named.add(b, d.at(offset))
	return d.mainLane.Zero(b, d.at(offset))
}

func (d *destination) Page(b *guest.Block, offset uint64, data []byte) error {
	d.cfg.Progress.Normal.Add(1)
	d.named.add(b, d.at(offset))
	pages, err := d.mainLane.Pages(b, d.at(offset))
	if err != nil {
		return err
	}
	copy(pages[0], data)
	return d.mainLane.Commit()
}

var errMainDone = errors.New("the main channel has none for this SYNC")

// runChannel reads one multifd channel to its end.
func (d *destination) runChannel(c *channel) error {
	for first := true; ; {
		packet, state, err := c.recv.Next()
		came := c.recv.Bytes() - c.bytes
		d.cfg.Progress.Bytes.Add(came)
		c.bytes += came
		if err == nil {
			err = d.cfg.Pace.wait(d.ctx, came)
		}
		switch {
		case err == io.EOF:
			// Right at the end; wrong if a sync point is still to come.
			d.meet.leave(&multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "SYNC",
				Err: fmt.Errorf("%w: the peer closed the connection while the main channel goes on", multifd.ErrTruncated)})
			return nil
		case err != nil:
			if d.done.Load() {
				return nil // the deadline of the grace, or the closing
			}
			return err
		case state != nil:
			d.keepState(state)
			continue
		}
		c.packets.add(packet)
		if err := d.place(c, packet); err != nil {
			return err
		}
		if !packet.Sync() {
			continue
		}
		if err := c.recv.Flush(); err != nil {
			return err
		}
		if err := d.meetChannel(c); err != nil {
			return err
		}
		if first {
			first = false
			if l := d.main.Layout(); l != nil {
				c.recv.SetLayout(l)
			}
		}
	}
}

// place puts the packet's pages into the lane.
func (d *destination) place(c *channel, p *multifd.Packet) error {
	if len(p.Normal)+len(p.Zero) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return &multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "normal_pages",
			Err: fmt.Errorf("%w: pages after the last sync point", multifd.ErrMalformed)}
	}
	if err := c.recv.Receive(c.lane); err != nil {
		return err
	}
	d.named.add(p.Block, p.Normal)
	d.named.add(p.Block, p.Zero)
	d.cfg.Progress.Normal.Add(uint64(len(p.Normal)))
	d.cfg.Progress.Zero.Add(uint64(len(p.Zero)))
	return nil
}

// meetChannel waits at a SYNC for all others.
func (d *destination) meetChannel(c *channel) error {
	back := c.link.stepAside()
	err := d.meet.wait(d.ctx, c.packets)
	back()
	c.packets = c.packets.next()
	if errors.Is(err, errMainDone) {
		c.mu.Lock()
		c.extra++
		c.mu.Unlock()
		return nil
	}
	var ce *multifd.ChannelError
	if err != nil && errors.As(err, &ce) {
		return err // another channel has left: it is named
	}
	if err != nil {
		return &multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "SYNC", Err: err}
	}
	return nil
}

// keepState keeps a packet that the budget has room for.
func (d *destination) keepState(s *multifd.DeviceState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.states = append(d.states, *s)
}
