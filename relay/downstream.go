package relay

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmferry/vmferry/relay/linkwire"
	"github.com/vmferry/vmferry/transport"
)

// downstream writes what comes over the link to QEMU. It returns nil when the other
// side has closed the link in order.
func (c *carrier) downstream(ctx context.Context) error {
	if err := c.onLink(); err != nil {
		return linkError(err)
	}
	dec := linkwire.NewDecoder(c.link, c.relay.cfg.Accelerator)
	defer dec.Close()
	first := true
	release := func() {}
	defer func() { release() }()
	var before uint64
	for {
		var e linkwire.Event
		if err := dec.Next(&e); err != nil {
			return linkError(err)
		}
		read := dec.Read()
		c.count(func(n *Counters) { n.FromLink += read - before; n.Received.Add(e.Forms) })
		before = read
		var err error
		switch e.Kind {
		case linkwire.KindBytes, linkwire.KindPacket:
			if first && !c.recognises {
				c.joinMigration(e.Bytes)
			}
			first = false
			err = c.deliver(ctx, &e)
		case linkwire.KindCache:
			release()
			release, err = c.useCache(dec, &e)
		case linkwire.KindAck:
			err = c.enc.Acknowledge(e.Packets)
		case linkwire.KindEnd:
			_ = transport.CloseWrite(c.qemu) // the other direction shows a QEMU that is gone
			c.endReceived.Store(true)
			err = c.closeInOrder(ctx)
		case linkwire.KindReset:
			c.peerEnded.Store(true)
			err = resetByPeer{e.Reason}
		case linkwire.KindClose:
			c.peerEnded.Store(true)
			return c.checkClose()
		}
		if err != nil {
			return err
		}
	}
}

// useCache sets the cache that a CACHE frame names.
func (c *carrier) useCache(dec *linkwire.Decoder, e *linkwire.Event) (release func(), err error) {
	if c.recognises {
		return func() {}, fmt.Errorf("%w: %v from the destination's side", linkwire.ErrMalformed, e.Kind)
	}
	cache, release := c.relay.caches.open(e.Cache, c.cacheSize.Load(), e.PageSize)
	if cache == nil {
		return release, fmt.Errorf("%w: no cache of pages of %d bytes was agreed on", linkwire.ErrCacheMismatch, e.PageSize)
	}
	dec.UseCache(cache)
	c.caching.Store(true)
	return release, nil
}

// closeInOrder sends CLOSE when both directions have ended. Until then the other side
// may still read: a connection that is closed earlier would take that from it.
func (c *carrier) closeInOrder(ctx context.Context) error {
	if !c.endSent.Load() || !c.endReceived.Load() || !c.closing.CompareAndSwap(false, true) {
		return nil
	}
	return c.link.writeLast(ctx, linkwire.AppendClose(nil))
}

func (c *carrier) checkClose() error {
	if !c.endReceived.Load() {
		return fmt.Errorf("%w: CLOSE before END", linkwire.ErrMalformed)
	}
	return nil
}

// deliver writes the bytes of a frame to QEMU.
func (c *carrier) deliver(ctx context.Context, e *linkwire.Event) error {
	if c.endReceived.Load() {
		return fmt.Errorf("%w: %v after END", linkwire.ErrMalformed, e.Kind)
	}
	if e.Kind == linkwire.KindPacket {
		c.packets.Add(1)
		if c.caching.Load() {
			select {
			case c.acks <- struct{}{}:
			default:
			}
		}
		if err := c.relay.budget.wait(ctx); err != nil {
			return err
		}
	}
	if len(e.Bytes) == 0 {
		return nil
	}
	n, err := c.qemu.Write(e.Bytes)
	c.count(func(s *Counters) { s.ToQEMU += uint64(n) })
	if err != nil {
		return fmt.Errorf("writing to QEMU: %w", err)
	}
	return nil
}

// linkError explains the end of a link.
func linkError(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the other relay closed the link (did it end?)")
	}
	return fmt.Errorf("link: %w", err)
}
