package hybrid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/vmferry/vmferry/iaa"
)

// Codec is the software path: raw deflate streams of one page each. Its matches
// must reach back 4 KiB at most if a device is to inflate what it writes.
type Codec interface {
	// Deflate compresses page into dst and returns the size of the stream, or 0
	// if it does not fit.
	Deflate(dst, page []byte) int
	// Inflate decompresses src, which must give exactly len(dst) bytes.
	Inflate(dst, src []byte) error
}

// DefaultDepth is the number of packets that overlap.
const DefaultDepth = 2

// Config describes a channel.
type Config struct {
	Pages    int   // most pages of a packet
	PageSize int   // bytes, of every page
	Depth    int   // packets started and not released; 0 means DefaultDepth
	Codec    Codec // required
	// CPU is the share of a packet's pages, 0 to 1, that the processor may take
	// while the device works. What the device fails at comes on top.
	CPU float64
	// Require makes it an error to have no usable queue, now or later.
	Require  bool
	Huffman  iaa.Huffman
	Prefault iaa.Prefault
	// Bounce inflates by way of the session's prefaulted buffers even where the
	// destination could be written to in place.
	Bounce bool
	// VerifyEvery has every so manieth page of the device checked in software,
	// which replaces it if it is wrong; 0 checks none. Pages that somebody
	// writes to meanwhile must not be checked.
	VerifyEvery int
	// Logger hears once that work goes on in software. Nil discards.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case c.Codec == nil:
		return errors.New("hybrid: no codec")
	case c.Pages < 1 || c.Pages > 1<<14:
		return fmt.Errorf("hybrid: packets of %d pages: want 1 to %d", c.Pages, 1<<14)
	case c.PageSize < 64:
		return fmt.Errorf("hybrid: pages of %d bytes: want 64 or more", c.PageSize)
	case c.Depth < 1 || c.Depth > 16:
		return fmt.Errorf("hybrid: %d packets deep: want 1 to 16", c.Depth)
	case c.CPU < 0 || c.CPU > 1:
		return fmt.Errorf("hybrid: processor share %v: want 0 to 1", c.CPU)
	case c.VerifyEvery < 0:
		return fmt.Errorf("hybrid: verify every %d pages: want 0 or more", c.VerifyEvery)
	}
	return nil
}

// Errors of a channel.
var (
	// ErrTooManyPackets: Release a packet before starting another.
	ErrTooManyPackets = errors.New("hybrid: too many packets in progress")
	// ErrReleased: the packet's outputs and buffers are gone.
	ErrReleased = errors.New("hybrid: packet released")
	// ErrClosed: the channel is closed, or broken by an earlier error.
	ErrClosed = errors.New("hybrid: channel closed")
)

// PageError reports a stream that software cannot inflate either.
type PageError struct {
	Page int // index in the packet
	Err  error
}

func (e *PageError) Error() string {
	return fmt.Sprintf("hybrid: page %d of the packet: %v", e.Page, e.Err)
}

func (e *PageError) Unwrap() error { return e.Err }

// flight is a job on a device.
type flight struct {
	slot, page int
	packet     *Packet
}

// Channel does a channel's pages on a device and the processor. It is for use by
// one goroutine, except for Stats.
type Channel struct {
	dev     *iaa.Device // nil: software only
	session *iaa.Session
	cfg     Config
	off     bool  // no queue is left
	broken  error // the channel can only be closed

	packets []*Packet // started and not released, in order
	scratch [][]byte  // of released packets
	flights []flight
	free    []int // slots
	lost    []int // slots to be reclaimed
	unsafe  int   // lost jobs that may still write to registered memory
	full    bool  // the last submission found the queues full

	beside pace // jobs to keep in flight while the processor works on a page
	away   pace // and while the caller is elsewhere

	memory  []*iaa.Memory
	checked int    // pages since the last verification
	verify  []byte // room to verify a page
	count   counters
}

// NewChannel makes a channel. A nil device makes one that works in software,
// unless cfg requires hardware.
func NewChannel(dev *iaa.Device, cfg Config) (*Channel, error) {
	if cfg.Depth == 0 {
		cfg.Depth = DefaultDepth
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if dev == nil && cfg.Require {
		return nil, fmt.Errorf("hybrid: hardware is required: %w", iaa.ErrUnavailable)
	}
	slots := cfg.Depth * cfg.Pages
	c := &Channel{dev: dev, cfg: cfg, beside: newPace(slots), away: newPace(slots)}
	if cfg.VerifyEvery > 0 {
		c.verify = make([]byte, cfg.PageSize)
	}
	if dev == nil {
		c.off = true
		return c, nil
	}
	var err error
	c.session, err = dev.NewSession(iaa.SessionConfig{
		Slots: slots, PageSize: cfg.PageSize, Huffman: cfg.Huffman, Prefault: cfg.Prefault, Bounce: cfg.Bounce,
		Retries: -1, // a full queue is when the processor has something better to do
	})
	if err != nil {
		return nil, err
	}
	for i := slots - 1; i >= 0; i-- {
		c.free = append(c.free, i)
	}
	return c, nil
}

// Buffer returns size bytes to read streams into, such that the device can
// inflate from there in place. It is prefaulted and lives until Close.
func (c *Channel) Buffer(size int) ([]byte, error) {
	if c.dev == nil {
		return make([]byte, size), nil
	}
	m, err := c.dev.NewMemory(size, c.cfg.Prefault)
	if err != nil {
		return nil, err
	}
	c.memory = append(c.memory, m)
	return m.Bytes(), nil
}

// Software reports whether all work is done in software, because there is no
// device or none of its queues is left.
func (c *Channel) Software() bool { return c.off }

// Close waits for jobs in progress and frees the channel's memory. Packets that
// have not been finished are abandoned. If a job cannot be waited for, the error
// answers to iaa.ErrUndrained; see iaa.Session.Close.
func (c *Channel) Close(ctx context.Context) error {
	if c.broken == ErrClosed {
		return nil
	}
	c.broken = ErrClosed
	if c.session == nil {
		return nil
	}
	err := c.session.Close(ctx)
	for _, m := range c.memory {
		if errors.Is(err, iaa.ErrUndrained) {
			m.Keep() // it may be the source of a job that is still out there
			continue
		}
		err = errors.Join(err, m.Free())
	}
	return err
}

// collect polls every job in flight and returns how many have ended. The last
// flight takes the place of one that ended: most polls find nothing, and should
// write nothing.
func (c *Channel) collect() int {
	before := len(c.flights)
	for i := 0; i < len(c.flights); {
		f := c.flights[i]
		r, done, err := c.session.Poll(f.slot)
		if err == nil && !done {
			i++
			continue
		}
		last := len(c.flights) - 1
		c.flights[i] = c.flights[last]
		c.flights = c.flights[:last]
		if err != nil {
			c.failed(f, err)
		} else {
			f.packet.hardware(f, r)
		}
	}
	return before - len(c.flights)
}

// failed has the page of a failed job done in software.
func (c *Channel) failed(f flight, err error) {
	p := f.packet
	c.count.fallback(iaa.Cause(err))
	p.redo = append(p.redo, f.page)
	if !c.session.Lost(f.slot) {
		c.free = append(c.free, f.slot)
		return
	}
	c.lost = append(c.lost, f.slot)
	if p.inflate && c.session.Direct(p.dst[f.page]) {
		c.unsafe++
	}
}

// refill submits unclaimed pages, the oldest packet's first, until so many jobs
// are in flight or the queues are full.
func (c *Channel) refill(depth int) {
	c.full = false
	if c.off {
		return
	}
	c.reclaim()
	for _, p := range c.packets {
		for p.head < p.tail && len(c.flights) < depth && len(c.free) > 0 {
			slot := c.free[len(c.free)-1]
			switch err := p.submit(slot, p.head); {
			case err == nil:
				c.free = c.free[:len(c.free)-1]
				c.flights = append(c.flights, flight{slot, p.head, p})
				p.head++
			case errors.Is(err, iaa.ErrQueueFull):
				c.full = true
				return
			case errors.Is(err, iaa.ErrUnavailable):
				c.giveUp(err)
				return
			default:
				// The device cannot do this page, or not now.
				c.count.fallback(iaa.Cause(err))
				p.redo = append(p.redo, p.head)
				p.head++
			}
		}
	}
}

// reclaim takes back lost slots that have come free.
func (c *Channel) reclaim() {
	if len(c.lost) == 0 {
		return
	}
	c.session.Reclaim()
	kept := c.lost[:0]
	for _, slot := range c.lost {
		if c.session.Lost(slot) {
			kept = append(kept, slot)
		} else {
			c.free = append(c.free, slot)
		}
	}
	c.lost = kept
}

// giveUp goes on without the device, or breaks if it is required.
func (c *Channel) giveUp(err error) {
	c.off = true
	if c.cfg.Require {
		c.broken = fmt.Errorf("hybrid: hardware is required: %w", err)
		return
	}
	c.cfg.Logger.Warn("no IAA work queue is left, going on in software", "error", err)
}

// settle makes sure that no lost job can write to registered memory any more,
// before software writes there, or anybody else.
func (c *Channel) settle(ctx context.Context) error {
	if c.unsafe == 0 {
		return nil
	}
	if err := c.session.Settle(ctx); err != nil {
		c.broken = fmt.Errorf("hybrid: %d pages may still be written to by a device: do not use their memory: %w", c.unsafe, err)
		return c.broken
	}
	c.unsafe = 0
	return nil
}
