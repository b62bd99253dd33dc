package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// Connections are those of one migration.
type Connections struct {
	Main     net.Conn
	Channels []net.Conn
	Links    []*Link // below main, and below each channel
	UUID     [16]byte
}

func (c *Connections) All() []net.Conn { return append([]net.Conn{c.Main}, c.Channels...) }

func (c *Connections) Close() { CloseAll(c.All()) }

// gathering is what has arrived of a migration. Which channels belong to the
// source shows when they are complete: until then those of each machine are kept
// apart.
type gathering struct {
	acc      *Acceptor
	main     *arrival
	machines []*machineChannels // oldest first
}

// machineChannels are the channels that came with one uuid.
type machineChannels struct {
	uuid     [16]byte
	channels []*arrival
	beyond   *arrival // one more than this side expects
}

func (m *machineChannels) count() (n int) {
	for _, c := range m.channels {
		if c != nil {
			n++
		}
	}
	return n
}

func (m *machineChannels) All() []*arrival {
	all := slices.DeleteFunc(slices.Clone(m.channels), func(c *arrival) bool { return c == nil })
	if m.beyond != nil {
		all = append(all, m.beyond)
	}
	return all
}

// fullest returns the machine with the most channels, nil if none came.
func (g *gathering) fullest() (most *machineChannels) {
	for _, m := range g.machines {
		if most == nil || m.count() > most.count() {
			most = m
		}
	}
	return most
}

// count returns how many connections of one migration there are at most.
func (g *gathering) count() (n int) {
	if m := g.fullest(); m != nil {
		n = m.count()
	}
	if g.main != nil {
		n++
	}
	return n
}

func (g *gathering) whole() bool { return g.main != nil && g.count() == g.acc.cfg.Channels+1 }

func (g *gathering) All() (all []*arrival) {
	if g.main != nil {
		all = append(all, g.main)
	}
	for _, m := range g.machines {
		all = append(all, m.All()...)
	}
	return all
}

// anyDead says whether the source has hung up on one of what is whole. One that has
// sent all may well have.
func (g *gathering) anyDead() bool {
	return hungUp(g.main.conn) || slices.ContainsFunc(g.fullest().All(), func(c *arrival) bool { return hungUp(c.conn) })
}

// Gather takes one main connection and the multifd channels, in any order.
func (a *Acceptor) Gather(ctx context.Context) (*Connections, error) {
	cfg := a.cfg
	if cfg.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, cfg.ConnectTimeout, fmt.Errorf("%w within %v", ErrNoSource, cfg.ConnectTimeout))
		defer cancel()
	}
	g := &gathering{acc: a}
	err := g.wait(ctx)
	if err == nil {
		return g.choose()
	}
	g.giveUp()
	return nil, err
}

// wait returns nil when all that a migration needs is there.
func (g *gathering) wait(ctx context.Context) error {
	a := g.acc
	var patience <-chan time.Time
	quiet := newQuietTimer(a.cfg.StallTimeout)
	defer quiet.Stop()
	begin := func() { // without a stall timeout the timer stays stopped
		if most := stallTimeout(a.cfg.StallTimeout); most > 0 {
			quiet.Reset(most)
		}
	}
	for {
		if g.whole() {
			// What is dead may be of a source that gave up connecting. If it
			// came again, what replaces it has been accepted.
			if !g.anyDead() || a.pending.count() == 0 {
				return nil
			}
			if patience == nil {
				patience = time.After(identifyAtEnd)
			}
		}
		select {
		case c := <-a.arrivals:
			begin()
			if c.err != nil && !g.whole() {
				return c.err
			}
			if c.err == nil {
				g.sortIn(&c)
			}
		case <-a.idle:
		case <-quiet.C:
			begin()
			if have := g.count(); have > 0 && !g.whole() && a.cfg.ConnectTimeout <= 0 {
				a.turnAway(fmt.Errorf("%w: %d of %d connections came, and no other for %v", ErrChannels, have, a.cfg.Channels+1, stallTimeout(a.cfg.StallTimeout)))
				g.giveUp()
			}
		case <-patience:
			if g.whole() {
				return nil
			}
			patience = nil
		case <-ctx.Done():
			if g.whole() {
				return nil
			}
			return g.explain(context.Cause(ctx))
		}
	}
}

// explain says what was there when the time for connecting was over.
func (g *gathering) explain(err error) error {
	if !errors.Is(err, ErrNoSource) {
		return err
	}
	cfg := g.acc.cfg
	if m := g.fullest(); m != nil && m.beyond != nil {
		return tooMany(int(m.beyond.handshake.ID), cfg.Channels)
	}
	if have := g.count(); have > 0 {
		err = fmt.Errorf("%w: %d of %d connections came within %v (does the source have multifd on, with %d channels?)",
			ErrChannels, have, cfg.Channels+1, cfg.ConnectTimeout, cfg.Channels)
	}
	return g.acc.quoteStranger(err)
}

// sortIn puts a connection in its place, or turns it away. Of two in one place the older
// one may be of a source that gave up connecting and came again.
func (g *gathering) sortIn(c *arrival) {
	conflict := g.add(c)
	if conflict != nil {
		g.dropDead(c.number)
		conflict = g.add(c)
	}
	if conflict != nil {
		socketOf(c.conn).Close()
		g.acc.turnAway(fmt.Errorf("a connection from %v: %w", c.link.RemoteAddr(), conflict))
	}
	g.makeRoom(c)
}

// add sorts in one connection, if its place is free.
func (g *gathering) add(c *arrival) error {
	if c.main {
		if g.main != nil {
			return errors.New("a second main channel, while the first is open")
		}
		g.main = c
		return nil
	}
	cfg := g.acc.cfg
	if cfg.UUID != ([16]byte{}) && c.handshake.UUID != cfg.UUID {
		return fmt.Errorf("%w: the source's machine has the uuid %x (want %x)", ErrChannels, c.handshake.UUID, cfg.UUID)
	}
	m := g.machine(c.handshake.UUID)
	place := &m.beyond
	if id := int(c.handshake.ID); id < cfg.Channels {
		place = &m.channels[id]
	}
	if *place != nil {
		return fmt.Errorf("%w: multifd channel %d of machine %x came twice", ErrChannels, c.handshake.ID, m.uuid)
	}
	*place = c
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

// makeRoom bounds how many connections are held: twice what a migration needs
// and a few. The oldest machine other than the newest connection's has to go.
func (g *gathering) makeRoom(newest *arrival) {
	if len(g.All()) <= 2*(g.acc.cfg.Channels+1)+16 {
		return
	}
	for i, m := range g.machines {
		if m.uuid != newest.handshake.UUID || newest.main {
			g.turnAway(m, errors.New("its channels did not become complete, and newer connections needed their place"))
			g.machines = slices.Delete(g.machines, i, i+1)
			return
		}
	}
}

func (g *gathering) turnAway(m *machineChannels, why error) {
	for _, c := range m.All() {
		socketOf(c.conn).Close()
	}
	g.acc.turnAway(fmt.Errorf("%d channels of machine %x: %w", len(m.All()), m.uuid, why))
}

// dropDead closes and forgets the connections from before one that the source has
// hung up on.
func (g *gathering) dropDead(before uint64) {
	dead := func(c *arrival) bool {
		if c == nil || c.number > before || !hungUp(c.conn) {
			return false
		}
		socketOf(c.conn).Close()
		g.acc.cfg.Logger.Warn("forgot a connection that its source has closed, for one that came after it")
		return true
	}
	if dead(g.main) {
		g.main = nil
	}
	for _, m := range g.machines {
		for i, c := range m.channels {
			if dead(c) {
				m.channels[i] = nil
			}
		}
		if dead(m.beyond) {
			m.beyond = nil
		}
	}
	g.machines = slices.DeleteFunc(g.machines, func(m *machineChannels) bool { return len(m.All()) == 0 })
}

// giveUp closes all.
func (g *gathering) giveUp() {
	for _, c := range g.All() {
		socketOf(c.conn).Close()
	}
	g.main, g.machines = nil, nil
}

// choose returns the connections of the machine whose channels are complete.
func (g *gathering) choose() (*Connections, error) {
	chosen := g.fullest()
	if chosen.beyond != nil {
		g.giveUp()
		return nil, tooMany(int(chosen.beyond.handshake.ID), g.acc.cfg.Channels)
	}
	for _, m := range g.machines {
		if m != chosen {
			g.turnAway(m, errors.New("another machine's channels were complete first"))
		}
	}
	conns := &Connections{Main: g.main.conn, Links: []*Link{g.main.link}, UUID: chosen.uuid}
	for _, c := range chosen.channels {
		conns.Channels = append(conns.Channels, c.conn)
		conns.Links = append(conns.Links, c.link)
	}
	return conns, nil
}
