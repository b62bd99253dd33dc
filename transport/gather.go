package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// Connections are the connections of one migration.
type Connections struct {
	Main     net.Conn
	Channels []net.Conn // indexed by channel id
	Links    []*Link    // the link below Main, then the link below each channel
	UUID     [16]byte   // of the source's machine
}

// All returns the main channel, then the multifd channels.
func (c *Connections) All() []net.Conn { return append([]net.Conn{c.Main}, c.Channels...) }

// Close closes all connections concurrently.
func (c *Connections) Close() { CloseAll(c.All()) }

// gathering collects the connections of a migration. The source is the machine whose
// channels are complete first; until then the channels are kept per machine UUID.
type gathering struct {
	acc      *Acceptor
	main     *arrival
	machines []*machineChannels // oldest first
}

// machineChannels are the channels with the same machine UUID.
type machineChannels struct {
	uuid     [16]byte
	channels []*arrival
	excess   *arrival // a channel with an id beyond the expected ones
}

func (m *machineChannels) count() (n int) {
	for _, c := range m.channels {
		if c != nil {
			n++
		}
	}
	return n
}

func (m *machineChannels) all() []*arrival {
	all := slices.DeleteFunc(slices.Clone(m.channels), func(c *arrival) bool { return c == nil })
	if m.excess != nil {
		all = append(all, m.excess)
	}
	return all
}

// fullest returns the machine with the most channels, nil if there is none.
func (g *gathering) fullest() (most *machineChannels) {
	for _, m := range g.machines {
		if most == nil || m.count() > most.count() {
			most = m
		}
	}
	return most
}

// count returns the number of connections of the most complete migration.
func (g *gathering) count() (n int) {
	if m := g.fullest(); m != nil {
		n = m.count()
	}
	if g.main != nil {
		n++
	}
	return n
}

func (g *gathering) complete() bool { return g.main != nil && g.count() == g.acc.cfg.Channels+1 }

func (g *gathering) all() (all []*arrival) {
	if g.main != nil {
		all = append(all, g.main)
	}
	for _, m := range g.machines {
		all = append(all, m.all()...)
	}
	return all
}

// anyClosedByPeer reports whether the source has closed one of the complete set of
// connections. A source that has sent everything may have done so too.
func (g *gathering) anyClosedByPeer() bool {
	return peerClosed(g.main.conn) || slices.ContainsFunc(g.fullest().all(), func(c *arrival) bool { return peerClosed(c.conn) })
}

// Gather returns the main channel and the multifd channels of one source, which may
// arrive in any order. It fails with an error that wraps ErrNoSource or ErrChannels
// after AcceptConfig.ConnectTimeout, and with the cause of ctx when ctx ends.
func (a *Acceptor) Gather(ctx context.Context) (*Connections, error) {
	cfg := a.cfg
	if cfg.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, cfg.ConnectTimeout, fmt.Errorf("%w within %v", ErrNoSource, cfg.ConnectTimeout))
		defer cancel()
	}
	g := &gathering{acc: a}
	err := g.awaitComplete(ctx)
	if err == nil {
		return g.takeComplete()
	}
	g.closeAll()
	return nil, err
}

// awaitComplete returns nil when all connections of a migration have arrived.
func (g *gathering) awaitComplete(ctx context.Context) error {
	a := g.acc
	var replacementWait <-chan time.Time
	quiet := newQuietTimer(a.cfg.StallTimeout)
	defer quiet.Stop()
	restartQuiet := func() { // without a stall timeout the timer stays stopped
		if most := stallTimeout(a.cfg.StallTimeout); most > 0 {
			quiet.Reset(most)
		}
	}
	for {
		if g.complete() {
			// A closed connection may belong to a source that aborted its attempt
			// to connect. If the source connected again, the replacement is in
			// pending.
			if !g.anyClosedByPeer() || a.pending.count() == 0 {
				return nil
			}
			if replacementWait == nil {
				replacementWait = time.After(identifyAtEnd)
			}
		}
		select {
		case c := <-a.arrivals:
			restartQuiet()
			if c.err != nil && !g.complete() {
				return c.err
			}
			if c.err == nil {
				g.place(&c)
			}
		case <-a.pendingLeft:
		case <-quiet.C:
			restartQuiet()
			if have := g.count(); have > 0 && !g.complete() && a.cfg.ConnectTimeout <= 0 {
				a.logRefusal(fmt.Errorf("%w: %d of %d connections arrived, and no other for %v", ErrChannels, have, a.cfg.Channels+1, stallTimeout(a.cfg.StallTimeout)))
				g.closeAll()
			}
		case <-replacementWait:
			if g.complete() {
				return nil
			}
			replacementWait = nil
		case <-ctx.Done():
			if g.complete() {
				return nil
			}
			return g.timeoutError(context.Cause(ctx))
		}
	}
}

// timeoutError adds to ErrNoSource which connections had arrived.
func (g *gathering) timeoutError(err error) error {
	if !errors.Is(err, ErrNoSource) {
		return err
	}
	cfg := g.acc.cfg
	if m := g.fullest(); m != nil && m.excess != nil {
		return tooManyChannels(int(m.excess.handshake.ID), cfg.Channels)
	}
	if have := g.count(); have > 0 {
		err = fmt.Errorf("%w: %d of %d connections arrived within %v (enable multifd at the source, with %d channels)",
			ErrChannels, have, cfg.Channels+1, cfg.ConnectTimeout, cfg.Channels)
	}
	return g.acc.withLastRefusal(err)
}

// place adds a connection, or refuses it. If the position is taken, the older
// connection may belong to an earlier attempt of the same source: place drops the
// connections that their peer has closed and tries again.
func (g *gathering) place(c *arrival) {
	conflict := g.addArrival(c)
	if conflict != nil {
		g.dropClosedByPeer(c.number)
		conflict = g.addArrival(c)
	}
	if conflict != nil {
		Socket(c.conn).Close()
		g.acc.logRefusal(fmt.Errorf("connection from %v: %w", c.link.RemoteAddr(), conflict))
	}
	g.evictOldestMachine(c)
}

// addArrival adds a connection if its position is free.
func (g *gathering) addArrival(c *arrival) error {
	if c.main {
		if g.main != nil {
			return errors.New("a second main channel while the first is open")
		}
		g.main = c
		return nil
	}
	cfg := g.acc.cfg
	if cfg.UUID != ([16]byte{}) && c.handshake.UUID != cfg.UUID {
		return fmt.Errorf("%w: the source's machine has UUID %x (want %x)", ErrChannels, c.handshake.UUID, cfg.UUID)
	}
	m := g.machine(c.handshake.UUID)
	slot := &m.excess
	if id := int(c.handshake.ID); id < cfg.Channels {
		slot = &m.channels[id]
	}
	if *slot != nil {
		return fmt.Errorf("%w: duplicate multifd channel %d of machine %x", ErrChannels, c.handshake.ID, m.uuid)
	}
	*slot = c
	return nil
}

func (g *gathering) machine(uuid [16]byte) *machineChannels {
	for _, m := range g.machines {
		if m.uuid == uuid {
			return m
		}
	}
	m := &machineChannels{uuid: uuid, channels: make([]*arrival, g.acc.cfg.Channels)}
	g.machines = append(g.machines, m)
	return m
}

// evictOldestMachine bounds the number of held connections to twice those of a
// migration and 16. Above that it refuses the oldest machine that newest does not
// belong to.
func (g *gathering) evictOldestMachine(newest *arrival) {
	if len(g.all()) <= 2*(g.acc.cfg.Channels+1)+16 {
		return
	}
	for i, m := range g.machines {
		if m.uuid != newest.handshake.UUID || newest.main {
			g.refuseMachine(m, errors.New("incomplete, and evicted by newer connections"))
			g.machines = slices.Delete(g.machines, i, i+1)
			return
		}
	}
}

func (g *gathering) refuseMachine(m *machineChannels, why error) {
	for _, c := range m.all() {
		Socket(c.conn).Close()
	}
	g.acc.logRefusal(fmt.Errorf("%d channels of machine %x: %w", len(m.all()), m.uuid, why))
}

// dropClosedByPeer drops the connections with a number up to before that their peer
// has closed.
func (g *gathering) dropClosedByPeer(before uint64) {
	drop := func(c *arrival) bool {
		if c == nil || c.number > before || !peerClosed(c.conn) {
			return false
		}
		Socket(c.conn).Close()
		g.acc.cfg.Logger.Warn("dropped a connection that its source closed, in favor of a newer one")
		return true
	}
	if drop(g.main) {
		g.main = nil
	}
	for _, m := range g.machines {
		for i, c := range m.channels {
			if drop(c) {
				m.channels[i] = nil
			}
		}
		if drop(m.excess) {
			m.excess = nil
		}
	}
	g.machines = slices.DeleteFunc(g.machines, func(m *machineChannels) bool { return len(m.all()) == 0 })
}

// closeAll closes and forgets all connections.
func (g *gathering) closeAll() {
	for _, c := range g.all() {
		Socket(c.conn).Close()
	}
	g.main, g.machines = nil, nil
}

// takeComplete returns the connections of the complete machine and refuses the others.
func (g *gathering) takeComplete() (*Connections, error) {
	chosen := g.fullest()
	if chosen.excess != nil {
		g.closeAll()
		return nil, tooManyChannels(int(chosen.excess.handshake.ID), g.acc.cfg.Channels)
	}
	for _, m := range g.machines {
		if m != chosen {
			g.refuseMachine(m, errors.New("another machine's channels were complete first"))
		}
	}
	conns := &Connections{Main: g.main.conn, Links: []*Link{g.main.link}, UUID: chosen.uuid}
	for _, c := range chosen.channels {
		conns.Channels = append(conns.Channels, c.conn)
		conns.Links = append(conns.Links, c.link)
	}
	return conns, nil
}
