package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/relay/linkwire"
	"github.com/vmferry/vmferry/transport"
)

// carrier carries one QEMU connection over a link, on one of its sides.
type carrier struct {
	relay *Relay
	qemu  net.Conn
	link  *linkConn
	// recognises says that multifd channels of QEMU are taken apart, at the source.
	recognises bool
	// first is what this side sends before its frames; onLink reads what the other
	// side sends before its own.
	first  []byte
	onLink func() error

	from        *admission
	hasDeadline bool // of the reads from QEMU

	mu        sync.Mutex
	migration *migration
	// cacheSize is the size that both sides agree on; 0 until they do.
	cacheSize atomic.Int64
	enc       *linkwire.Encoder
	acks      chan struct{} // has a value if packets was raised
	packets   atomic.Uint64 // PACKET frames that were read
	caching   atomic.Bool   // the other side waits for acknowledgements
	// endSent and endReceived say that this side's and the other side's QEMU have ended
	// their directions, closing that CLOSE is sent.
	endSent, endReceived, closing atomic.Bool
	peerEnded                     atomic.Bool // the other side has sent RESET or CLOSE
}

func newCarrier(r *Relay, qemu net.Conn, link *linkConn) *carrier {
	return &carrier{
		relay: r, qemu: qemu, link: link,
		onLink: func() error { return nil }, acks: make(chan struct{}, 1),
		enc: linkwire.NewEncoder(r.cfg.Accelerator),
	}
}

// resetByPeer is the error of the other side.
type resetByPeer struct{ reason string }

func (e resetByPeer) Error() string { return termtext.Text(e.reason) }

// errStopped is the reason for the other side if the context ends.
var errStopped = errors.New("the relay was stopped")

// run carries both directions until they have ended.
func (c *carrier) run(parent context.Context) (err error) {
	c.count(func(n *Counters) { n.Connections++; n.Open++ })
	helpersCtx, endHelpers := context.WithCancel(parent)
	directions, ctx := errgroup.WithContext(parent)
	var helpers sync.WaitGroup
	// A direction that fails ends the reads and writes of the other one.
	stop := context.AfterFunc(ctx, func() { c.breakBoth(parent, context.Cause(ctx)) })
	helpers.Go(func() { c.link.keepAlive(helpersCtx) })
	helpers.Go(func() { c.acknowledge(helpersCtx) })
	directions.Go(func() error { return c.upstream(ctx) })
	directions.Go(func() error { return c.downstream(ctx) })
	err = directions.Wait()
	if stop() || err == nil {
		c.link.Close()
		c.qemu.Close()
	}
	endHelpers()
	helpers.Wait()
	c.enc.Close()
	c.count(func(n *Counters) {
		n.Open--
		if err != nil {
			n.Broken++
		}
	})
	if parent.Err() != nil {
		return context.Cause(parent)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return nil
}

// breakBoth breaks both connections, so that both QEMUs see it.
func (c *carrier) breakBoth(parent context.Context, why error) {
	if parent.Err() != nil {
		why = errStopped
	}
	transport.Reset(c.qemu)
	if c.peerEnded.Load() {
		c.link.Close()
		return
	}
	c.link.reset(why.Error())
}

// count changes the counters of the Relay and of the migration.
func (c *carrier) count(f func(*Counters)) {
	c.relay.total.add(f)
	c.mu.Lock()
	m := c.migration
	c.mu.Unlock()
	if m != nil {
		m.add(f)
	}
}

// joinMigration finds the migration by the first bytes of the source's QEMU: those of a
// multifd channel have the machine's UUID.
func (c *carrier) joinMigration(first []byte) {
	uuid, ok := linkwire.ChannelOf(first)
	if !ok {
		return
	}
	m := c.from.isChannel(uuid)
	c.mu.Lock()
	defer c.mu.Unlock()
	if m == c.migration {
		return
	}
	c.migration = m
	m.add(func(n *Counters) { n.Connections++; n.Open++ })
}

// acknowledge sends ACK frames. A goroutine of its own does, so that the reading of
// frames never waits for their writing.
func (c *carrier) acknowledge(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.acks:
		}
		if c.link.writeAll(ctx, net.Buffers{linkwire.AppendAck(nil, c.packets.Load())}) != nil {
			return // the directions notice
		}
	}
}
