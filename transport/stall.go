package transport

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStalled is wrapped when no byte moved on any connection of a migration for the
// stall timeout while this side waited for the peer.
var ErrStalled = errors.New("transport: migration stalled")

// ErrLinkDead is wrapped when a TCP peer acknowledged nothing for the link timeout.
var ErrLinkDead = errors.New("transport: link dead")

const (
	defaultStallTimeout = 2 * time.Minute
	// linkChecks and stallChecks are the numbers of checks within a timeout.
	linkChecks, stallChecks = 8, 8
)

// stallTimeout resolves a StallTimeout field: the result 0 means never.
func stallTimeout(set time.Duration) time.Duration {
	switch {
	case set == 0:
		return defaultStallTimeout
	case set < 0:
		return 0
	}
	return set
}

// newQuietTimer returns a timer of a StallTimeout field; the timer never fires if the
// timeout is never.
func newQuietTimer(set time.Duration) *time.Timer {
	if most := stallTimeout(set); most > 0 {
		return time.NewTimer(most)
	}
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// Watch observes the connections of one migration. When no byte has moved on any
// connection for the stall timeout while this side waits for the peer, it closes all
// connections with an error that wraps ErrStalled. When a TCP peer has acknowledged
// nothing for the link timeout, it closes that connection with an error that wraps
// ErrLinkDead. Its methods may be called concurrently.
type Watch struct {
	peer        string // "source" or "destination"
	stall, link time.Duration
	// replies is the number of waits for a reply of the peer that another goroutine
	// reads. Only a source uses it; a destination waits in its links.
	replies atomic.Int32
	source  bool

	mu    sync.Mutex
	links []*Link // of the main channel, then of the multifd channels

	quit chan struct{}
	once sync.Once // closes quit
	loop sync.WaitGroup
}

// StartWatch starts a watch of the source's or the destination's side; Stop ends it.
// stall is 0 for 2 minutes and negative for never; linkTimeout is 0 for 30 s. The
// first link is the main channel's.
func StartWatch(source bool, stall, linkTimeout time.Duration, links ...*Link) *Watch {
	w := &Watch{peer: "source", stall: stallTimeout(stall), link: linkTimeout, source: source, links: links, quit: make(chan struct{})}
	if source {
		w.peer = "destination"
	}
	if w.link <= 0 {
		w.link = defaultLinkTimeout
	}
	w.loop.Go(w.run)
	return w
}

// Stop ends the watch. It may be called more than once.
func (w *Watch) Stop() {
	w.once.Do(func() { close(w.quit) })
	w.loop.Wait()
}

// Main returns the main channel's link.
func (w *Watch) Main() *Link { return w.All()[0] }

// Add adds a link.
func (w *Watch) Add(l *Link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links = append(w.links, l)
}

// All returns the links in the order in which they were added.
func (w *Watch) All() []*Link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.links
}

func (w *Watch) run() {
	interval := w.link / linkChecks
	if w.stall > 0 {
		interval = min(interval, w.stall/stallChecks)
	}
	interval = max(interval, time.Millisecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var moved uint64
	var quiet time.Duration
	for last := time.Now(); ; {
		select {
		case <-w.quit:
			return
		case <-ticker.C:
		}
		// A check is late if this process was suspended. The time of the
		// suspension does not count against the peer.
		now := time.Now()
		passed := min(now.Sub(last), 2*interval)
		last = now
		links := w.All()
		w.closeDeadLinks(links, now)
		before := moved
		if moved = totalMoved(links); moved != before || !w.waitsForPeer(links) {
			quiet = 0
			continue
		}
		if quiet += passed; w.stall > 0 && quiet >= w.stall {
			err := w.stallError(links)
			for _, l := range links {
				l.closeWith(err)
			}
			return
		}
	}
}

// closeDeadLinks closes the links whose peer no longer acknowledges.
func (w *Watch) closeDeadLinks(links []*Link, now time.Time) {
	for _, l := range links {
		if l.ackState.timedOut(l, now, w.link) {
			l.closeWith(fmt.Errorf("%w: the %s at %v has acknowledged nothing for %v", ErrLinkDead, w.peer, l.RemoteAddr(), w.link))
		}
	}
}

func totalMoved(links []*Link) (n uint64) {
	for _, l := range links {
		n += l.moved.Load()
	}
	return n
}

// waitsForPeer reports whether this side waits for the peer. A destination waits only
// if the users of all its links wait: a user that works, for example writes to a slow
// disk, delays the other users and the peer.
func (w *Watch) waitsForPeer(links []*Link) bool {
	waits := w.replies.Load() > 0
	for _, l := range links {
		sends, reads := l.sends.Load() > 0, l.reads.Load() > 0
		waits = waits || sends || reads && !w.source
		if !w.source && !sends && !reads && l.waitingForOthers.Load() == 0 {
			return false
		}
	}
	return waits
}

// stallError returns an error that names what each connection waits for.
func (w *Watch) stallError(links []*Link) error {
	var toSend, toRead, others []string
	for i, l := range links {
		name := "main channel"
		if i > 0 {
			name = fmt.Sprintf("channel %d", i-1)
		}
		switch {
		case l.sends.Load() > 0:
			toRead = append(toRead, name)
		case l.reads.Load() > 0 && !w.source:
			toSend = append(toSend, name)
		case l.waitingForOthers.Load() > 0:
			others = append(others, name)
		}
	}
	var parts []string
	part := func(names []string, format string) {
		const most = 8
		if len(names) == 0 {
			return
		}
		list := strings.Join(names[:min(len(names), most)], ", ")
		if more := len(names) - most; more > 0 {
			list += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, fmt.Sprintf(format, list, w.peer))
	}
	part(toSend, "%s: waiting for the %s to send")
	part(toRead, "%s: waiting for the %s to read")
	part(others, "%s: waiting for the other channels%.0s")
	if w.replies.Load() > 0 {
		parts = append(parts, "waiting for the "+w.peer+"'s reply")
	}
	return fmt.Errorf("%w: no byte moved on any connection for %v (%s; raise --stall-timeout to wait longer)", ErrStalled, w.stall, strings.Join(parts, "; "))
}

// AwaitReply marks this side as waiting for a reply of the peer until the returned
// function is called.
func (w *Watch) AwaitReply() func() {
	w.replies.Add(1)
	return func() { w.replies.Add(-1) }
}

// WaitForOthers marks the link's user as waiting for the user of another link, or as
// ended, until the returned function is called.
func (l *Link) WaitForOthers() func() {
	l.waitingForOthers.Add(1)
	return func() { l.waitingForOthers.Add(-1) }
}
