package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/relay/linkwire"
)

// framesInFlight bounds the frames of a connection: one is read from QEMU, one encoded,
// one written, and one waits.
const framesInFlight = 4

// returnBytes is the most bytes of a frame of the return path.
const returnBytes = 16 << 10

// smallUnit is the most bytes of a unit that does not wait for processor time. Such are
// the return path and the talk on the main channel, which QEMU waits for: with postcopy
// the guest stands still until a page that was asked for has come.
const smallUnit = returnBytes

// upstream sends what QEMU sends over the link, until QEMU has ended its direction.
func (c *carrier) upstream(parent context.Context) error {
	stages, ctx := errgroup.WithContext(parent)
	free := make(chan *linkwire.Frame, framesInFlight)
	read, encoded := make(chan *linkwire.Frame, 1), make(chan *linkwire.Frame, 1)
	for range framesInFlight {
		free <- new(linkwire.Frame)
	}
	up := &upstream{carrier: c, split: linkwire.NewSplitter(c.readQEMU), level: newAdapter(c.relay.cfg.Compression)}
	if !c.recognises {
		up.split.MostBytes = returnBytes
	}
	stages.Go(func() error { defer close(read); return up.read(ctx, free, read) })
	stages.Go(func() error { defer close(encoded); return up.encode(ctx, read, encoded) })
	stages.Go(func() error { return up.write(ctx, encoded, free) })
	if err := stages.Wait(); err != nil {
		return err
	}
	c.endSent.Store(true)
	return c.closeInOrder(parent)
}

// upstream is the direction from QEMU to the link.
type upstream struct {
	*carrier
	split       *linkwire.Splitter
	level       *adapter
	input, work time.Duration // of the frames that level has not observed
	cacheTried  bool
}

// readQEMU is a linkwire.Source.
func (c *carrier) readQEMU(p []byte, within time.Duration) (int, error) {
	var deadline time.Time
	if within > 0 {
		deadline = time.Now().Add(within)
	}
	if c.hasDeadline || within > 0 {
		c.qemu.SetReadDeadline(deadline)
		c.hasDeadline = within > 0
	}
	n, err := c.qemu.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && within > 0 {
		err = linkwire.ErrQuiet
	}
	if n > 0 {
		err = nil // the next read has it
	}
	return n, err
}

// read takes QEMU's bytes apart.
func (u *upstream) read(ctx context.Context, free <-chan *linkwire.Frame, to chan<- *linkwire.Frame) error {
	for first := true; ; first = false {
		f, err := receive(ctx, free)
		if err != nil {
			return err
		}
		switch err := u.split.Next(&f.Unit); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading from QEMU: %w", err)
		}
		if first && u.recognises {
			u.joinMigration(f.Bytes)
		}
		n := f.Plain()
		u.count(func(c *Counters) { c.FromQEMU += uint64(n) })
		if err := send(ctx, to, f); err != nil {
			return err
		}
	}
}

// encode makes frames of the units, at the level that the adapter chooses. If the encoder
// overlaps, a frame is finished when the next one has been begun.
func (u *upstream) encode(ctx context.Context, from <-chan *linkwire.Frame, to chan<- *linkwire.Frame) error {
	var begun *linkwire.Frame // and not finished
	finish := func() error {
		f := begun
		begun = nil
		if f == nil {
			return nil
		}
		return u.finish(ctx, f, to)
	}
	for {
		if begun != nil && len(from) == 0 {
			if err := finish(); err != nil { // there is nothing to overlap with
				return err
			}
		}
		waiting := time.Now()
		f, err := receive(ctx, from)
		if errors.Is(err, io.EOF) {
			return finish()
		}
		if err != nil {
			return err
		}
		u.input += time.Since(waiting)
		if err := u.begin(ctx, f); err != nil {
			return err
		}
		if err := finish(); err != nil {
			return err
		}
		begun = f
		if u.enc.Overlaps() && f.Header != nil {
			continue
		}
		if err := finish(); err != nil {
			return err
		}
	}
}

// begin chooses the level of a frame and begins it.
func (u *upstream) begin(ctx context.Context, f *linkwire.Frame) error {
	working := time.Now()
	defer func() { u.work += time.Since(working) }()
	if f.Plain() > smallUnit {
		if err := u.relay.budget.wait(ctx); err != nil {
			return err
		}
	}
	f.Level = u.level.level
	if err := u.openCache(ctx, f); err != nil {
		return err
	}
	return u.enc.Begin(f)
}

// finish finishes a frame and passes it on.
func (u *upstream) finish(ctx context.Context, f *linkwire.Frame, to chan<- *linkwire.Frame) error {
	working := time.Now()
	if err := u.enc.Finish(f); err != nil {
		return err
	}
	finished := time.Now()
	u.work += finished.Sub(working)
	out, plain := f.Size(), f.Plain() // before the frame is passed on
	if err := send(ctx, to, f); err != nil {
		return err
	}
	now := time.Now()
	u.level.observe(step{plain: plain, out: out, input: u.input, work: u.work, write: now.Sub(finished)}, now)
	u.input, u.work = 0, 0
	return nil
}

// openCache sets the encoder's cache before the first frame that can use it.
func (u *upstream) openCache(ctx context.Context, f *linkwire.Frame) error {
	size := u.cacheSize.Load()
	if u.cacheTried || f.Header == nil || f.Level < linkwire.LevelDeflate || size == 0 || !u.recognises {
		return nil
	}
	u.cacheTried = true
	id, cache := u.relay.migrations.senderCache(u.migration, size, f.PageSize)
	if cache == nil {
		return nil
	}
	u.enc.UseCache(cache)
	return u.link.writeAll(ctx, net.Buffers{linkwire.AppendCache(nil, id, f.PageSize)})
}

// receive waits for a frame. It returns io.EOF if none comes any more.
func receive(ctx context.Context, from <-chan *linkwire.Frame) (*linkwire.Frame, error) {
	select {
	case f, ok := <-from:
		if !ok {
			return nil, io.EOF
		}
		return f, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func send(ctx context.Context, to chan<- *linkwire.Frame, f *linkwire.Frame) error {
	select {
	case to <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write writes the frames to the link, and END at the end.
func (u *upstream) write(ctx context.Context, from <-chan *linkwire.Frame, free chan<- *linkwire.Frame) error {
	if err := u.link.writeAll(ctx, net.Buffers{u.first}); err != nil {
		return linkError(err)
	}
	for {
		f, err := receive(ctx, from)
		if errors.Is(err, io.EOF) {
			return u.link.writeAll(ctx, net.Buffers{linkwire.AppendEnd(nil)})
		}
		if err != nil {
			return err
		}
		n := f.Size() // writing consumes Out
		began := time.Now()
		if err := u.link.writeAll(ctx, f.Out); err != nil {
			return linkError(err)
		}
		waited := time.Since(began)
		u.count(func(c *Counters) { c.ToLink += uint64(n); c.Sent.Add(f.Forms); c.LinkWait += waited })
		free <- f // has room for all frames
	}
}
