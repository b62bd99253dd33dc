package hybrid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/vmferry/vmferry/iaa"
)

// Codec is the software path: raw deflate streams of one page each. A device can
// inflate its streams only if no match reaches back more than 4 KiB.
type Codec interface {
	// Deflate compresses page into dst and returns the size of the stream, or 0
	// if it does not fit.
	Deflate(dst, page []byte) int
	// Inflate decompresses src, which must give exactly len(dst) bytes.
	Inflate(dst, src []byte) error
}

// DefaultDepth is the default of Config.Depth.
const DefaultDepth = 2

// Config describes a channel.
type Config struct {
	Pages    int   // largest number of pages of a packet
	PageSize int   // bytes, of every page
	Depth    int   // packets started and not released; 0 means DefaultDepth
	Codec    Codec // required
	// CPU is the share of a packet's pages, 0 to 1, that the processor may take while
	// the device works. Pages that the device fails at are done in software in any
	// case.
	CPU float64
	// Require makes it an error if no queue is usable, now or later.
	Require  bool
	Huffman  iaa.Huffman
	Prefault iaa.Prefault
	// Bounce inflates into the session's prefaulted buffers and copies from there, even
	// if the device could write to the destination in place.
	Bounce bool
	// VerifyEvery verifies every Nth device page in software, which replaces the page
	// if it is wrong; 0 verifies none. It must be 0 if pages may change while the
	// device works on them.
	VerifyEvery int
	// Logger gets one message if the channel changes to software. Nil discards it.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case c.Codec == nil:
		return errors.New("hybrid: Config.Codec is nil (want a software codec)")
	case c.Pages < 1 || c.Pages > 1<<14:
		return fmt.Errorf("hybrid: packets of %d pages: want 1 to %d", c.Pages, 1<<14)
	case c.PageSize < 64:
		return fmt.Errorf("hybrid: pages of %d bytes: want 64 or more", c.PageSize)
	case c.Depth < 1 || c.Depth > 16:
		return fmt.Errorf("hybrid: depth %d: want 1 to 16 packets", c.Depth)
	case c.CPU < 0 || c.CPU > 1:
		return fmt.Errorf("hybrid: processor share %v: want 0 to 1", c.CPU)
	case c.VerifyEvery < 0:
		return fmt.Errorf("hybrid: verify every %d pages: want 0 or more", c.VerifyEvery)
	}
	return nil
}

// Errors of a channel.
var (
	// ErrTooManyPackets: a packet must be released before another is started.
	ErrTooManyPackets = errors.New("hybrid: too many packets in progress")
	// ErrReleased: the packet was released, and its outputs with it.
	ErrReleased = errors.New("hybrid: packet released")
	// ErrClosed: the channel is closed.
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

// flight is a job that was submitted to a device.
type flight struct {
	slot, page int
	packet     *Packet
}

// Channel compresses and inflates pages on a device and on the processor. It is for use
// by one goroutine, except for Stats.
type Channel struct {
	dev     *iaa.Device // nil: software only
	session *iaa.Session
	cfg     Config
	off     bool  // no queue is left
	broken  error // not nil: the channel can only be closed

	packets []*Packet // started and not released, in order
	scratch [][]byte  // of released packets
	flights []flight
	free    []int // slots
	lost    []int // slots to be reclaimed
	unsafe  int   // lost jobs that may still write to registered memory
	full    bool  // the last submission found the queues full

	beside pace // jobs to keep in flight while the processor works on a page
	away   pace // jobs to keep in flight between calls

	memory  []*iaa.Memory
	checked int    // pages since the last verification
	verify  []byte // room to verify a page
	count   counters
}

// NewChannel returns a channel. With a nil device it works in software; that is an
// error if cfg requires hardware.
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
		Retries: -1, // while the queue is full, the processor does pages
	})
	if err != nil {
		return nil, err
	}
	for i := slots - 1; i >= 0; i-- {
		c.free = append(c.free, i)
	}
	return c, nil
}

// Buffer returns size bytes of prefaulted memory for streams, which the device can read
// in place. It is valid until Close.
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

// Software reports whether all work is done in software, because there is no device or
// no usable queue is left.
func (c *Channel) Software() bool { return c.off }

// Close waits for jobs in progress and frees the channel's memory. Packets that are not
// finished are abandoned. If a job does not end in time, the error wraps
// iaa.ErrUndrained; see iaa.Session.Close.
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
			m.Keep() // it may be the source of a job that is still outstanding
			continue
		}
		err = errors.Join(err, m.Free())
	}
	return err
}

// collect polls every job in flight and returns how many have ended. The last flight
// replaces one that ended, so that polls that find nothing write nothing.
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

// failed queues the page of a failed job for software.
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

// refill submits unclaimed pages, the oldest packet's first, until depth jobs are in
// flight or the queues are full.
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

// reclaim takes back lost slots that are free again.
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

// giveUp continues in software, or breaks the channel if the device is required.
func (c *Channel) giveUp(err error) {
	c.off = true
	if c.cfg.Require {
		c.broken = fmt.Errorf("hybrid: hardware is required: %w", err)
		return
	}
	c.cfg.Logger.Warn("no IAA work queue is left: pages are done in software", "error", err)
}

// awaitLostJobs returns when no lost job can write to registered memory any more. It is
// called before software writes there.
func (c *Channel) awaitLostJobs(ctx context.Context) error {
	if c.unsafe == 0 {
		return nil
	}
	if err := c.session.AwaitLostJobs(ctx); err != nil {
		c.broken = fmt.Errorf("hybrid: a device may still write to %d pages (do not use their memory): %w", c.unsafe, err)
		return c.broken
	}
	c.unsafe = 0
	return nil
}
