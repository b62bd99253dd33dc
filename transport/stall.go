package transport

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStalled is wrapped when no byte moved on any connection of a migration for
// StallTimeout, while this side waited for the other.
var ErrStalled = errors.New("the migration stalled")

// ErrLinkDead is wrapped when a TCP peer acknowledged nothing for LinkTimeout.
var ErrLinkDead = errors.New("the link is dead")

const (
	defaultStallTimeout = 2 * time.Minute
	// linkLooks and stallLooks are how often a watch looks within a timeout.
	linkLooks, stallLooks = 8, 8
)

// stallTimeout is what a setting of StallTimeout means: 0 for never.
func stallTimeout(set time.Duration) time.Duration {
	switch {
	case set == 0:
		return defaultStallTimeout
	case set < 0:
		return 0
	}
	return set
}

// newQuietTimer is a timer of StallTimeout, which never fires without one.
func newQuietTimer(set time.Duration) *time.Timer {
	if most := stallTimeout(set); most > 0 {
		return time.NewTimer(most)
	}
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// Watch looks after the connections of one migration. When no byte has moved on
// any for the stall timeout, while this side waits for the peer, it ends all with
// an error that says so; one whose TCP peer is gone it ends alone.
type Watch struct {
	peer        string // "source" or "destination"
	stall, link time.Duration
	// replies is how many wait for an answer of the peer that another
	// goroutine reads. It is of a source's watch; a destination's users wait in
	// their links.
	replies atomic.Int32
	source  bool

	mu    sync.Mutex
	links []*Link // the main channel's, then those of the channels

	quit chan struct{}
	once sync.Once // closes quit
	loop sync.WaitGroup
}

// StartWatch starts a watch; stop ends it.
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

// Stop ends the watch, and may be called again.
func (w *Watch) Stop() {
	w.once.Do(func() { close(w.quit) })
	w.loop.Wait()
}

// Main returns the main channel's link.
func (w *Watch) Main() *Link { return w.All()[0] }

func (w *Watch) Add(l *Link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links = append(w.links, l)
}

func (w *Watch) All() []*Link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.links
}

func (w *Watch) run() {
	often := w.link / linkLooks
	if w.stall > 0 {
		often = min(often, w.stall/stallLooks)
	}
	often = max(often, time.Millisecond)
	ticker := time.NewTicker(often)
	defer ticker.Stop()
	var moved uint64
	var quiet time.Duration
	for last := time.Now(); ; {
		select {
		case <-w.quit:
			return
		case <-ticker.C:
		}
		// A look that comes late, because this process stood still, says
		// nothing about the peer.
		now := time.Now()
		passed := min(now.Sub(last), 2*often)
		last = now
		links := w.All()
		w.endDead(links, now)
		before := moved
		if moved = total(links); moved != before || !w.waits(links) {
			quiet = 0
			continue
		}
		if quiet += passed; w.stall > 0 && quiet >= w.stall {
			err := w.explain(links)
			for _, l := range links {
				l.fail(err)
			}
			return
		}
	}
}

// endDead ends the links whose peer does not acknowledge any more.
func (w *Watch) endDead(links []*Link, now time.Time) {
	for _, l := range links {
		if l.acks.dead(l, now, w.link) {
			l.fail(fmt.Errorf("%w: the %s at %v has acknowledged nothing for %v", ErrLinkDead, w.peer, l.RemoteAddr(), w.link))
		}
	}
}

func total(links []*Link) (n uint64) {
	for _, l := range links {
		n += l.moved.Load()
	}
	return n
}

// waits says whether it is the peer that has to do something. A destination waits
// when all its parties do: one that is at work, such as writing to a slow disk,
// keeps the others waiting, and the peer with them.
func (w *Watch) waits(links []*Link) bool {
	some := w.replies.Load() > 0
	for _, l := range links {
		sends, reads := l.sends.Load() > 0, l.reads.Load() > 0
		some = some || sends || reads && !w.source
		if !w.source && !sends && !reads && l.aside.Load() == 0 {
			return false
		}
	}
	return some
}

// explain says which connection waits for what.
func (w *Watch) explain(links []*Link) error {
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
		case l.aside.Load() > 0:
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
	part(others, "%s: waiting for the others%.0s")
	if w.replies.Load() > 0 {
		parts = append(parts, "waiting for the "+w.peer+"'s answer")
	}
	return fmt.Errorf("%w: no byte moved on any connection for %v (%s; a longer --stall-timeout waits longer)", ErrStalled, w.stall, strings.Join(parts, "; "))
}

// AwaitReply says that this side waits for the peer's word until the returned
// function is called.
func (w *Watch) AwaitReply() func() {
	w.replies.Add(1)
	return func() { w.replies.Add(-1) }
}

// WaitForOthers says that the link's user waits for another link's, or has ended,
// until the returned function is called.
func (l *Link) WaitForOthers() func() {
	l.aside.Add(1)
	return func() { l.aside.Add(-1) }
}
