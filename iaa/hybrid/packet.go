package hybrid

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/vmferry/vmferry/iaa"
)

// fullPatience is how many times a channel without a job in flight finds the queues
// full before it does a page in software.
const fullPatience = 3

// Packet is a set of pages that is compressed or inflated together.
type Packet struct {
	ch         *Channel
	inflate    bool
	src, dst   [][]byte
	out        [][]byte
	head, tail int    // pages from head to tail are unclaimed
	left       int    // pages not done
	allowance  int    // pages that the processor may still take
	redo       []int  // pages that the device failed at
	slots      []int  // slots whose buffers hold outputs
	scratch    []byte // outputs of the processor, a page each
	err        error  // of the first page that software failed at
	released   bool
}

// Compress starts to compress pages, each of Config.PageSize bytes.
func (c *Channel) Compress(pages [][]byte) (*Packet, error) {
	for i, page := range pages {
		if len(page) != c.cfg.PageSize {
			return nil, fmt.Errorf("hybrid: page %d has %d bytes: want %d", i, len(page), c.cfg.PageSize)
		}
	}
	return c.begin(&work{src: pages})
}

// Inflate starts to inflate streams: srcs[i] fills dsts[i], of Config.PageSize bytes.
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

// work is what a packet is to do.
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

// returned collects the jobs that ended between two calls, and adjusts the depth.
func (c *Channel) returned() {
	if c.session == nil {
		return
	}
	if had := len(c.flights); had > 0 {
		ended := c.collect()
		c.away.learn(ended, len(c.flights), c.unclaimed())
	}
}

// depthAway is how many jobs to leave in flight between calls: all, if the processor
// takes no pages.
func (c *Channel) depthAway() int {
	if c.cfg.CPU == 0 {
		return c.away.most
	}
	return c.away.depth
}

func (c *Channel) unclaimed() bool { return c.remaining() > len(c.flights) }

// remaining is the number of pages that are in flight or unclaimed.
func (c *Channel) remaining() int {
	n := len(c.flights)
	for _, p := range c.packets {
		n += p.tail - p.head
	}
	return n
}

// submit submits a page to the device.
func (p *Packet) submit(slot, page int) error {
	if p.inflate {
		return p.ch.session.SubmitInflate(slot, p.src[page], p.dst[page])
	}
	return p.ch.session.SubmitCompress(slot, p.src[page])
}

// hardware records a page that the device has done.
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

// verify compares a page of the device with software.
func (p *Packet) verify(page int, r iaa.Result) bool {
	c := p.ch
	c.count.verified.Add(1)
	if r.Overflow {
		return true // sent as it is: there is no stream to verify
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
	// The capacity is limited, so that a codec that appends cannot write into the next
	// page's output.
	size := c.cfg.PageSize - 1
	room := p.scratch[page*c.cfg.PageSize:][:size:size]
	if n := c.cfg.Codec.Deflate(room, p.src[page]); n > 0 {
		p.out[page] = room[:n]
	}
}

// takeScratch returns room for a packet's outputs. It reuses memory, because page
// faults of fresh memory cost more than the codec.
func (c *Channel) takeScratch() []byte {
	if n := len(c.scratch); n > 0 {
		s := c.scratch[n-1]
		c.scratch = c.scratch[:n-1]
		return s
	}
	return make([]byte, c.cfg.Pages*c.cfg.PageSize)
}

// Finish returns when every page of the packet is done. After an error of ctx, Finish
// may be called again. A *PageError names the first page that software failed at; the
// packet is then to be released. After any other error the channel is to be closed.
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

// step submits as many pages as the device has room for. Then it does one page in
// software, if there is one for the processor, or collects ended jobs, or waits a
// moment.
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
		if err := c.awaitLostJobs(ctx); err != nil {
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

// nextForCPU returns a packet whose last unclaimed page the processor may take. It is
// this packet or, so that the processor is not idle while the device works, a later
// one.
func (p *Packet) nextForCPU() *Packet {
	c := p.ch
	may := func(q *Packet) bool { return q.head < q.tail && (c.off || q.allowance > 0) }
	if c.off {
		if may(p) {
			return p
		}
		return nil // other packets are done when they are finished
	}
	// If the device completes all remaining pages before the processor completes one,
	// the processor takes none.
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

// awaited returns a slot to wait for: that of one of the packet's jobs, or any.
func (p *Packet) awaited() int {
	for _, f := range p.ch.flights {
		if f.packet == p {
			return f.slot
		}
	}
	return 0
}

// Outputs returns the compressed pages in order, after Finish. An output is nil if its
// page does not shrink and is to be sent as it is. Outputs are valid until Release.
func (p *Packet) Outputs() [][]byte { return p.out }

// Release returns the packet's buffers to the channel. A packet that is not finished
// keeps them until Close.
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
