package relay

import (
	"context"
	"sync"
	"time"

	"github.com/vmferry/vmferry/relay/linkwire"
)

// orders makes the connections of one QEMU reach the other QEMU in the order in which
// the first made them: QEMU takes the first one for the main channel, if it cannot tell
// by the first bytes.
type orders struct {
	mu     sync.Mutex
	groups map[[16]byte]*arrivalGroup
}

// arrivalGroup has the connections of one source process that are being made.
type arrivalGroup struct {
	made    map[uint64]bool
	users   int
	changed chan struct{} // closed at the next change
}

// orderWait bounds the wait for earlier connections. A link that never arrives breaks
// its connection at the source.
const orderWait = 10 * time.Second

// await returns when the earlier connections of the process have been made, or after
// orderWait. The caller calls done when it has made its own, or failed to.
func (o *orders) await(ctx context.Context, hello linkwire.Hello) (done func()) {
	o.mu.Lock()
	if o.groups == nil {
		o.groups = map[[16]byte]*arrivalGroup{}
	}
	g := o.groups[hello.Order]
	if g == nil {
		g = &arrivalGroup{made: map[uint64]bool{}, changed: make(chan struct{})}
		o.groups[hello.Order] = g
	}
	g.users++
	for n := range g.made {
		if n+mostWaitedFor < hello.Number {
			delete(g.made, n) // no connection waits for it any more
		}
	}
	o.mu.Unlock()
	timeout := time.NewTimer(orderWait)
	defer timeout.Stop()
	for ready := false; !ready; {
		o.mu.Lock()
		ready = g.allMade(hello.After, hello.Number)
		changed := g.changed
		o.mu.Unlock()
		if ready {
			break
		}
		select {
		case <-changed:
		case <-timeout.C:
			ready = true
		case <-ctx.Done():
			ready = true
		}
	}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		g.made[hello.Number] = true
		close(g.changed)
		g.changed = make(chan struct{})
		if g.users--; g.users == 0 {
			// A connection that is on its way may wait for this one.
			time.AfterFunc(orderWait, func() { o.forget(hello.Order, g) })
		}
	}
}

// forget drops a group that has had no connection to make for a while.
func (o *orders) forget(order [16]byte, g *arrivalGroup) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if g.users == 0 && o.groups[order] == g {
		delete(o.groups, order)
	}
}

// mostWaitedFor bounds how many earlier connections are waited for.
const mostWaitedFor = 1024

func (g *arrivalGroup) allMade(after, number uint64) bool {
	if after < number && number-after > mostWaitedFor {
		return true
	}
	for n := after; n < number; n++ {
		if !g.made[n] {
			return false
		}
	}
	return true
}
