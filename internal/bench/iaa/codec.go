package iaabench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// charged is a codec whose work takes a set time on a virtual clock.
type charged struct {
	hybrid.Codec
	clock             *iaamodel.Clock
	compress, inflate time.Duration
}

func (c *charged) Deflate(dst, page []byte) int {
	n := c.Codec.Deflate(dst, page)
	c.clock.Sleep(c.compress)
	return n
}

func (c *charged) Inflate(dst, src []byte) error {
	err := c.Codec.Inflate(dst, src)
	c.clock.Sleep(c.inflate)
	return err
}

// bench is a Run in progress.
type bench struct {
	cfg     Config
	streams [][]byte // of cfg.Pages, those that shrink
	plain   [][]byte // what they inflate to
	report  Report
}

// measureRounds is how often a cost is measured; the fastest counts, since all
// that disturbs a measurement makes it slower.
const measureRounds = 5

// prepare makes the streams to inflate and measures what software costs here.
func (b *bench) prepare(ctx context.Context) error {
	codec := b.cfg.Codec()
	room, page := make([]byte, PageSize-1), make([]byte, PageSize)
	for _, p := range b.cfg.Pages {
		if n := codec.Deflate(room, p); n > 0 {
			b.streams, b.plain = append(b.streams, append([]byte(nil), room[:n]...)), append(b.plain, p)
		}
	}
	if len(b.streams) == 0 {
		return errors.New("iaabench: no page shrinks")
	}
	var err error
	b.report.CPUCompress, b.report.CPUInflate, b.report.Driver = b.cfg.CPUCompress, b.cfg.CPUInflate, b.cfg.Driver
	if b.report.CPUCompress == 0 {
		b.report.CPUCompress = fastest(len(b.cfg.Pages), func() {
			for _, p := range b.cfg.Pages {
				codec.Deflate(room, p)
			}
		})
	}
	if b.report.CPUInflate == 0 {
		b.report.CPUInflate = fastest(len(b.streams), func() {
			for _, s := range b.streams {
				if e := codec.Inflate(page, s); e != nil {
					err = fmt.Errorf("iaabench: the codec does not read its own stream: %w", e)
				}
			}
		})
	}
	if err != nil || b.cfg.Hardware != nil {
		return err
	}
	if b.report.Driver == 0 {
		if b.report.Driver, err = driverCost(ctx, b.cfg.Pages); err != nil {
			return err
		}
	}
	timing := *b.cfg.Timing
	timing.Driver = b.report.Driver
	b.cfg.Timing, b.report.Timing = &timing, &timing
	return nil
}

// fastest returns the time of one of n steps of f.
func fastest(n int, f func()) time.Duration {
	best := time.Duration(1<<63 - 1)
	for range measureRounds {
		start := time.Now()
		f()
		best = min(best, time.Since(start))
	}
	return best / time.Duration(n)
}

// noCodec is for runs that must not need software.
type noCodec struct{}

func (noCodec) Deflate(_, _ []byte) int   { return 0 }
func (noCodec) Inflate(_, _ []byte) error { return errors.New("iaabench: no software path") }

// driverCost measures the driver's own work for a job: a channel on a device that
// completes each job at the moment of its submission.
func driverCost(ctx context.Context, pages [][]byte) (cost time.Duration, err error) {
	null, opts, err := newNullSystem()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, null.remove()) }()
	dev, err := iaa.Open(ctx, opts)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	ch, err := hybrid.NewChannel(dev, hybrid.Config{Pages: PacketPages, PageSize: PageSize, Codec: noCodec{}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, ch.Close(ctx)) }()
	mem, err := dev.NewMemory(PacketPages*PageSize, iaa.PrefaultTouch)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, mem.Free()) }()
	packet := split(mem.Bytes())
	for i := range packet {
		copy(packet[i], pages[i%len(pages)])
	}
	const packets = 100
	cost = fastest(packets*PacketPages, func() {
		for range packets {
			p, e := ch.Compress(packet)
			if e == nil {
				e = p.Finish(ctx)
			}
			if e != nil {
				err = e
				return
			}
			p.Release()
		}
	})
	return cost, err
}

// split cuts memory into pages.
func split(mem []byte) [][]byte {
	out := make([][]byte, len(mem)/PageSize)
	for i := range out {
		out[i] = mem[i*PageSize:][:PageSize:PageSize]
	}
	return out
}
