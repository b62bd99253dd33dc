package hybrid

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/vmferry/vmferry/iaa"
)

// fullPatience is how often a channel with no job in flight finds the queues full
// before it does a page in software.
const fullPatience = 3

// Packet is a set of pages that is compressed or inflated together.
type Packet struct {
	ch         *Channel
	inflate    bool
	src, dst   [][]byte
	out        [][]byte
	head, tail int    // pages from head to tail are nobody's yet
	left       int    // pages not done
	allowance  int    // pages the processor may still choose to do
	redo       []int  // pages the device failed at
	slots      []int  // whose buffers hold outputs
	scratch    []byte // outputs of the processor, a page each
	err        error  // of the first page that software failed at too
	released   bool
}

// Compress starts on pages, each of Config.PageSize bytes.
func (c *Channel) Compress(pages [][]byte) (*Packet, error) {
	for i, page := range pages {
		if len(page) != c.cfg.PageSize {
			return nil, fmt.Errorf("hybrid: page %d has %d bytes: want %d", i, len(page), c.cfg.PageSize)
		}
	}
	return c.begin(&work{src: pages})
}

// Inflate starts on streams, srcs[i] to fill dsts[i], of Config.PageSize bytes.
func (c *Channel) Inflate(srcs, dsts [][]byte) (*Packet, error) {
	if len(srcs) != len(dsts) {
		return nil, fmt.Errorf("hybrid: %d streams for %d pages", len(srcs), len(dsts))
	}
	for i := range srcs {
		if len(dsts[i]) != c.cfg.PageSize || len(srcs[i]) < 1 || len(srcs[i]) > c.cfg.PageSize {
			return nil, fmt.Errorf("hybrid: page %d: stream of %d bytes for %d: want 1 to %d for %d",
				i, len(srcs[i]), len(dsts[i]), c.cfg.PageSize, c.cfg.PageSize)
		}
	}
	return c.begin(&work{src: srcs, dst: dsts, inflate: true})
}

// work is what a packet is begun with.
type work struct {
	src, dst [][]byte
	inflate  bool
}

func (c *Channel) begin(w *work) (*Packet, error) {
	switch {
	case c.broken != nil:
		return nil, c.broken
	case len(c.packets) >= c.cfg.Depth:
		return nil, fmt.Errorf("%w: %d", ErrTooManyPackets, len(c.packets))
	case len(w.src) > c.cfg.Pages:
		return nil, fmt.Errorf("hybrid: packet of %d pages: want %d at most", len(w.src), c.cfg.Pages)
	}
	n := len(w.src)
	p := &Packet{
		ch: c, inflate: w.inflate, tail: n, left: n, allowance: int(c.cfg.CPU * float64(n)),
		src: slices.Clone(w.src), dst: slices.Clone(w.dst),
	}
	if !w.inflate {
		p.out = make([][]byte, n)
	}
	c.returned()
	c.packets = append(c.packets, p)
	c.refill(c.depthAway())
	return p, c.broken
}

// returned collects what ended while the caller was elsewhere, and learns from it.
func (c *Channel) returned() {
	if c.session == nil {
		return
	}
	if had := len(c.flights); had > 0 {
		ended := c.collect()
		c.away.learn(ended, len(c.flights), c.unclaimed())
	}
}

// depthAway is how many jobs to leave in flight. A processor that takes no pages
// leaves them all.
func (c *Channel) depthAway() int {
	if c.cfg.CPU == 0 {
		return c.away.most
	}
	return c.away.depth
}

func (c *Channel) unclaimed() bool { return c.remaining() > len(c.flights) }

// remaining is the number of pages that are in flight or nobody's yet.
func (c *Channel) remaining() int {
	n := len(c.flights)
	for _, p := range c.packets {
		n += p.tail - p.head
	}
	return n
}

// submit hands a page to the device.
func (p *Packet) submit(slot, page int) error {
	if p.inflate {
		return p.ch.session.SubmitInflate(slot, p.src[page], p.dst[page])
	}
	return p.ch.session.SubmitCompress(slot, p.src[page])
}

// hardware takes a page that the device has done.
func (p *Packet) hardware(f flight, r iaa.Result) {
	c := p.ch
	if c.cfg.VerifyEvery > 0 {
		if c.checked++; c.checked >= c.cfg.VerifyEvery {
			c.checked = 0
			if !p.verify(f.page, r) {
				c.count.corrupt.Add(1)
				c.count.fallback("wrong-bytes")
				c.free = append(c.free, f.slot)
				p.redo = append(p.redo, f.page)
				return
			}
		}
	}
	c.count.hardware.Add(1)
	p.left--
	if p.inflate || r.Overflow {
		c.free = append(c.free, f.slot)
		return
	}
	p.out[f.page] = r.Output
	p.slots = append(p.slots, f.slot)
}

// verify checks a page of the device against software.
func (p *Packet) verify(page int, r iaa.Result) bool {
	c := p.ch
	c.count.verified.Add(1)
	if r.Overflow {
		return true // sent as it is: nothing to be wrong
	}
	stream, want := r.Output, p.src[page]
	if p.inflate {
		stream, want = p.src[page], p.dst[page]
	}
	return c.cfg.Codec.Inflate(c.verify, stream) == nil && bytes.Equal(c.verify, want)
}

// software does a page on the processor.
func (p *Packet) software(page int) {
	c := p.ch
	p.left--
	if p.inflate {
		if err := c.cfg.Codec.Inflate(p.dst[page], p.src[page]); err != nil && p.err == nil {
			p.err = &PageError{page, err}
		}
		return
	}
	if p.scratch == nil {
		p.scratch = c.takeScratch()
	}
	// The capacity ends with the room, or a codec that appends could grow into
	// the next page's output.
	size := c.cfg.PageSize - 1
	room := p.scratch[page*c.cfg.PageSize:][:size:size]
	if n := c.cfg.Codec.Deflate(room, p.src[page]); n > 0 {
		p.out[page] = room[:n]
	}
}

// takeScratch returns room for a packet's outputs, used before if there is any:
// fresh memory costs more than the codec.
func (c *Channel) takeScratch() []byte {
	if n := len(c.scratch); n > 0 {
		s := c.scratch[n-1]
		c.scratch = c.scratch[:n-1]
		return s
	}
	return make([]byte, c.cfg.Pages*c.cfg.PageSize)
}

// Finish works until every page of the packet is done. With an error of ctx the
// packet may be finished later; with any other, the first page that software
// failed at is named, and the packet is to be released, or the channel closed.
func (p *Packet) Finish(ctx context.Context) error {
	c := p.ch
	if p.released {
		return ErrReleased
	}
	c.returned()
	for idle := 0; p.left > 0; {
		switch {
		case c.broken != nil:
			return c.broken
		case ctx.Err() != nil:
			return ctx.Err()
		}
		worked, err := p.step(ctx, idle)
		if err != nil {
			return err
		}
		if idle++; worked {
			idle = 0
		}
	}
	c.refill(c.depthAway())
	return p.err
}

// step submits what the device has room for and does a page in software if there
// is one for the processor. Otherwise it collects, or waits a moment.
func (p *Packet) step(ctx context.Context, idle int) (worked bool, err error) {
	c := p.ch
	owner := p.nextForCPU()
	if owner != nil {
		c.refill(c.beside.depth)
	} else {
		c.refill(c.away.most)
	}
	switch {
	case len(p.redo) > 0:
		if err := c.settle(ctx); err != nil {
			return false, err
		}
		page := p.redo[len(p.redo)-1]
		p.redo = p.redo[:len(p.redo)-1]
		p.software(page)
	case owner != nil && owner.head < owner.tail: // refill may have taken the last one
		owner.tail--
		page := owner.tail
		if !c.off {
			owner.allowance--
			c.count.software.Add(1)
		} else {
			c.count.fallback("unavailable")
		}
		owner.software(page)
		ended := c.collect()
		c.beside.learn(ended, len(c.flights), c.unclaimed())
		return true, nil
	case len(c.flights) == 0 && c.full && idle >= fullPatience && p.head < p.tail:
		c.count.fallback("queue-full")
		p.tail--
		p.software(p.tail)
	case c.session == nil:
	default:
		if c.collect() > 0 {
			return true, nil
		}
		c.session.Relax(p.awaited(), idle)
		return false, nil
	}
	c.collect()
	return true, nil
}

// nextForCPU finds a packet whose last unclaimed page the processor may take: this
// one or, so that it is not idle while the device ends this one, a later one.
func (p *Packet) nextForCPU() *Packet {
	c := p.ch
	may := func(q *Packet) bool { return q.head < q.tail && (c.off || q.allowance > 0) }
	if c.off {
		if may(p) {
			return p
		}
		return nil // the turn of others comes when they are finished
	}
	// A device that would be through with everything before the processor is
	// with one page had better not wait for it.
	if float64(c.remaining()) < c.beside.recent {
		return nil
	}
	if may(p) {
		return p
	}
	for _, q := range c.packets {
		if q != p && may(q) {
			return q
		}
	}
	return nil
}

// awaited is a slot to wait for: of one of the packet's own jobs, or any.
func (p *Packet) awaited() int {
	for _, f := range p.ch.flights {
		if f.packet == p {
			return f.slot
		}
	}
	return 0
}

// Outputs returns the compressed pages, in order, after Finish: nil for a page
// that does not shrink and is to be sent as it is. They are valid until Release.
func (p *Packet) Outputs() [][]byte { return p.out }

// Release gives the packet's buffers to the next one. A packet that has not been
// finished stays with the channel until Close.
func (p *Packet) Release() {
	c := p.ch
	if p.released || p.left > 0 {
		return
	}
	p.released = true
	if p.scratch != nil {
		c.scratch = append(c.scratch, p.scratch)
	}
	c.free = append(c.free, p.slots...)
	for i, q := range c.packets {
		if q == p {
			c.packets = append(c.packets[:i], c.packets[i+1:]...)
			break
		}
	}
}
