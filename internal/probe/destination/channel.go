package destination

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/internal/corpus"
)

const (
	pageSize    = corpus.PageSize
	packetPages = 128 // as QEMU's multifd has it
	contents    = 256 // distinct pages with data
)

// model is a destination in virtual time.
type model struct {
	Options
	memory  Memory
	clock   *iaamodel.Clock
	machine *iaamodel.Machine
	dev     *iaa.Device

	pages, streams [][]byte // with data, and compressed
	channels       []*channel
}

func (m *model) run(ctx context.Context) (_ Result, err error) {
	if err := m.compress(); err != nil {
		return Result{}, err
	}
	for i := range m.Channels {
		c, err := m.newChannel(i)
		if c != nil {
			// Jobs in flight have to end, also if ctx has ended.
			defer func() { err = errors.Join(err, c.close(context.WithoutCancel(ctx))) }()
		}
		if err != nil {
			return Result{}, err
		}
		m.channels = append(m.channels, c)
	}
	before, began := m.machine.Stats(), m.clock.Now()
	for _, c := range m.channels {
		m.clock.Go(func() {
			c.err = c.receive(ctx)
			c.took = m.clock.Now() - began
		})
	}
	m.clock.Run()
	after := m.machine.Stats()
	for _, c := range m.channels {
		if err := errors.Join(c.err, c.check()); err != nil {
			return Result{}, err
		}
	}
	return m.result(before, after), nil
}

// compress makes the pages with data and their streams, by the standard library: the streams
// of package deflate depend on the processor.
func (m *model) compress() error {
	var stream bytes.Buffer
	w, err := flate.NewWriter(&stream, flate.BestSpeed)
	if err != nil {
		return err
	}
	for page := range slices.Chunk(corpus.Generate(1, contents), pageSize) {
		stream.Reset()
		w.Reset(&stream)
		if _, err := w.Write(page); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		if stream.Len() < pageSize {
			m.pages, m.streams = append(m.pages, page), append(m.streams, bytes.Clone(stream.Bytes()))
		}
	}
	return nil
}

// channel is a channel of the destination, with its part of guest memory.
type channel struct {
	m     *model
	index int
	ch    *hybrid.Channel
	guest *iaa.Memory
	input []byte // the streams of a packet

	arrived []int // content of each page, -1 for none

	data, zero          int // pages
	receiving, scanning time.Duration
	took                time.Duration
	err                 error
}

// noSoftware fails: all pages are for the device.
type noSoftware struct{}

var errSoftware = errors.New("destination: the device left a page to the processor")

func (noSoftware) Deflate(_, _ []byte) int   { return 0 }
func (noSoftware) Inflate(_, _ []byte) error { return errSoftware }

// newChannel returns a channel also with an error, if there is something to close.
func (m *model) newChannel(index int) (*channel, error) {
	// A packet is received when the packet before it is inflated, as QEMU does.
	ch, err := hybrid.NewChannel(m.dev, hybrid.Config{Pages: packetPages, PageSize: pageSize, Depth: 1, Codec: noSoftware{}, Require: true})
	if err != nil {
		return nil, err
	}
	c := &channel{m: m, index: index, ch: ch, arrived: slices.Repeat([]int{-1}, m.Packets*packetPages)}
	if c.input, err = ch.Buffer(packetPages * pageSize); err != nil {
		return c, err
	}
	prefault := iaa.PrefaultNone
	if m.memory == Prealloc {
		prefault = iaa.PrefaultPopulate
	}
	c.guest, err = m.dev.NewMemory(len(c.arrived)*pageSize, prefault)
	return c, err
}

func (c *channel) close(ctx context.Context) error {
	err := c.ch.Close(ctx)
	if c.guest != nil {
		err = errors.Join(err, c.guest.Free())
	}
	return err
}

// page returns a page of guest memory.
func (c *channel) page(i int) []byte { return c.guest.Bytes()[i*pageSize:][:pageSize:pageSize] }

// chosen reports whether page i is one of the share of the pages: every third, for example.
func chosen(i int, share float64) bool {
	const rounding = 1e-9
	return int(float64(i+1)*share+rounding) > int(float64(i)*share+rounding)
}

// receive receives all packets of two rounds: of all pages in the first one, and in the second
// one of those that were zero and have data now.
func (c *channel) receive(ctx context.Context) error {
	var later []int
	for first := 0; first < len(c.arrived); first += packetPages {
		var data, zero []int
		for i := first; i < first+packetPages; i++ {
			switch {
			case !chosen(i, *c.m.Zero):
				data = append(data, i)
			default:
				zero = append(zero, i)
			}
		}
		if err := c.packet(ctx, data, zero); err != nil {
			return err
		}
		for _, i := range zero {
			if chosen(c.zero, *c.m.Later) {
				later = append(later, i)
			}
			c.zero++
		}
	}
	for packet := range slices.Chunk(later, packetPages) {
		if err := c.packet(ctx, packet, nil); err != nil {
			return err
		}
	}
	return nil
}

// packet receives a packet: it reads the streams, has them inflated, and handles the zero
// pages.
func (c *channel) packet(ctx context.Context, data, zero []int) error {
	if err := c.inflate(ctx, data); err != nil {
		return err
	}
	for _, i := range zero {
		if c.m.memory == Scan {
			c.scan(i)
		}
	}
	return nil
}

func (c *channel) inflate(ctx context.Context, data []int) error {
	if len(data) == 0 {
		return ctx.Err()
	}
	var srcs, dsts [][]byte
	used := 0
	for _, i := range data {
		content := (i + 37*c.index) % len(c.m.streams)
		n := copy(c.input[used:], c.m.streams[content])
		srcs, dsts = append(srcs, c.input[used:used+n]), append(dsts, c.page(i))
		used += n
		c.arrived[i] = content
	}
	c.spend(c.m.Costs.Receive*float64(used), &c.receiving)
	packet, err := c.ch.Inflate(srcs, dsts)
	if err == nil {
		err = packet.Finish(ctx)
	}
	if err != nil {
		return err
	}
	packet.Release()
	c.data += len(data)
	return nil
}

// scan reads a page to see whether it is zero.
func (c *channel) scan(i int) {
	c.m.machine.Read(c.page(i))
	c.spend(c.m.Costs.Scan*pageSize, &c.scanning)
}

// spend lets ns of processor time pass.
func (c *channel) spend(ns float64, total *time.Duration) {
	took := time.Duration(ns)
	*total += took
	c.m.clock.Sleep(took)
}

// check compares guest memory with what arrived.
func (c *channel) check() error {
	zero := make([]byte, pageSize)
	for i, content := range c.arrived {
		want := zero
		if content >= 0 {
			want = c.m.pages[content]
		}
		if !bytes.Equal(c.page(i), want) {
			return fmt.Errorf("destination: page %d of channel %d has wrong bytes", i, c.index)
		}
	}
	return nil
}
