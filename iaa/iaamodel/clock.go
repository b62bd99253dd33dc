package iaamodel

import (
	"container/heap"
	"sync"
	"time"
)

// Clock is virtual time for a simulation: it advances only while all actors wait.
// Actors started with Go run one at a time, in the order of their virtual time, so that
// runs with the same seeds give the same result. A Clock without actors serves one
// goroutine.
type Clock struct {
	mu      sync.Mutex
	now     time.Duration
	seq     int
	todo    todo
	current *actor // nil: the one goroutine that uses the clock without Go
	done    chan struct{}
	left    int
}

// NewClock returns a clock at zero.
func NewClock() *Clock { return &Clock{done: make(chan struct{})} }

// actor is a goroutine that runs in virtual time.
type actor struct{ turn chan struct{} }

// item is an event or an actor's turn at a moment.
type item struct {
	at    time.Duration
	seq   int // orders items of the same moment
	event func()
	actor *actor
}

type todo []item

func (t todo) Len() int { return len(t) }
func (t todo) Less(i, j int) bool {
	return t[i].at < t[j].at || t[i].at == t[j].at && t[i].seq < t[j].seq
}
func (t todo) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t *todo) Push(x any)   { *t = append(*t, x.(item)) }
func (t *todo) Pop() any {
	old := *t
	x := old[len(old)-1]
	*t = old[:len(old)-1]
	return x
}

// Now is the virtual time.
func (c *Clock) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *Clock) push(at time.Duration, event func(), a *actor) {
	c.seq++
	heap.Push(&c.todo, item{at, c.seq, event, a})
}

// after calls f when d has passed.
func (c *Clock) after(d time.Duration, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.push(c.now+d, f, nil)
}

// Go adds an actor at the current virtual time; it begins to run in Run.
func (c *Clock) Go(f func()) {
	a := &actor{turn: make(chan struct{})}
	c.mu.Lock()
	c.left++
	c.push(c.now, nil, a)
	c.mu.Unlock()
	go func() {
		<-a.turn
		f()
		c.mu.Lock()
		c.left--
		last := c.left == 0
		c.current = nil
		c.mu.Unlock()
		if last {
			close(c.done)
			return
		}
		c.pass()
	}()
}

// Run lets the actors run until all have ended.
func (c *Clock) Run() {
	c.mu.Lock()
	none := c.left == 0
	c.mu.Unlock()
	if none {
		return
	}
	c.pass()
	<-c.done
	c.mu.Lock()
	c.done = make(chan struct{})
	c.mu.Unlock()
}

// pass runs events until it is an actor's turn, and gives it.
func (c *Clock) pass() {
	for {
		c.mu.Lock()
		x := heap.Pop(&c.todo).(item)
		c.now = max(c.now, x.at)
		if x.actor != nil {
			c.current = x.actor
			c.mu.Unlock()
			x.actor.turn <- struct{}{}
			return
		}
		c.mu.Unlock()
		x.event()
	}
}

// Sleep lets d pass for the actor that calls it.
func (c *Clock) Sleep(d time.Duration) {
	c.mu.Lock()
	c.until(c.now + d)
}

// idle advances the time to the next event, by at least d, or a little if there is no
// event: the caller may wait for something that never happens.
func (c *Clock) idle(d time.Duration) {
	c.mu.Lock()
	at := c.now + max(d, time.Microsecond)
	if len(c.todo) > 0 {
		at = max(c.now+d, c.todo[0].at)
	}
	c.until(at)
}

// until lets events and other actors run until the caller's time comes. It is
// called with mu held and returns without.
func (c *Clock) until(at time.Duration) {
	me := c.current
	if me != nil {
		c.push(at, nil, me)
	}
	for {
		if me == nil && (len(c.todo) == 0 || c.todo[0].at > at) {
			c.now = max(c.now, at)
			c.mu.Unlock()
			return
		}
		x := heap.Pop(&c.todo).(item)
		c.now = max(c.now, x.at)
		if x.actor != nil {
			c.current = x.actor
			c.mu.Unlock()
			if x.actor != me {
				x.actor.turn <- struct{}{}
				<-me.turn
			}
			return
		}
		c.mu.Unlock()
		x.event()
		c.mu.Lock()
	}
}
