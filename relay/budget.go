package relay

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// budget bounds the processor time of the process. Before work begins, wait compares the
// time used with the time allowed. Work that is over the bound waits in a queue, first in,
// first out, so that no connection starves. Nothing runs while no work waits.
type budget struct {
	bound    float64              // processors; 0 depends on the migrations under way, negative is none
	underWay func() int           // migrations
	used     func() time.Duration // processor time of the process

	mu     sync.Mutex
	left   time.Duration // that may be used, at the last sample
	usage  time.Duration // used, at the last sample
	at     time.Time     // of the last sample
	begun  int           // pieces of work since the last sample
	cost   time.Duration // of a piece of work, on average
	last   time.Time     // when the queue gave way last
	queue  []chan struct{}
	timer  *time.Timer // runs while the queue is not empty
	closed bool
}

const (
	budgetInterval = 20 * time.Millisecond
	// budgetSaved is how much unused time counts later.
	budgetSaved = 100 * time.Millisecond
	// budgetOwed is how much time above the bound counts later. The process can have
	// other work, which the budget does not control.
	budgetOwed = time.Second
	// budgetLongest is the longest time for which the queue stands still: other work of
	// the process can use all that is allowed for ever, and the migrations still end.
	budgetLongest = time.Second
)

// newBudget returns a budget. cpus is as in Config.
func newBudget(cpus float64, underWay func() int) *budget {
	return &budget{bound: cpus, underWay: underWay, used: processorTime}
}

// stop lets all work begin.
func (b *budget) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
	b.release(len(b.queue))
}

// processors returns the bound that applies now.
func (b *budget) processors() float64 {
	if b.bound > 0 {
		return b.bound
	}
	most := max(1, float64(runtime.NumCPU())/2)
	return min(max(1, float64(b.underWay())), most)
}

// wait returns when a piece of work may begin.
func (b *budget) wait(ctx context.Context) error {
	if b.bound < 0 {
		return nil
	}
	b.mu.Lock()
	b.sample(time.Now())
	if b.closed || len(b.queue) == 0 && b.left >= 0 {
		b.begun++
		b.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	b.queue = append(b.queue, turn)
	if len(b.queue) == 1 {
		b.schedule()
	}
	b.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		b.mu.Lock()
		defer b.mu.Unlock()
		if i := slices.Index(b.queue, turn); i >= 0 {
			b.queue = slices.Delete(b.queue, i, i+1)
		}
		return context.Cause(ctx)
	}
}

// sample takes the time used since the last sample off the time allowed.
func (b *budget) sample(now time.Time) {
	passed := now.Sub(b.at)
	if passed < budgetInterval {
		return
	}
	usage := b.used()
	if !b.at.IsZero() {
		spent := usage - b.usage
		b.left += time.Duration(b.processors()*float64(passed)) - spent
		b.left = max(min(b.left, budgetSaved), -budgetOwed)
		if b.begun > 0 {
			b.cost += (spent/time.Duration(b.begun) - b.cost) / 4
		}
	}
	b.usage, b.at, b.begun = usage, now, 0
}

// schedule runs tick when there should be time again.
func (b *budget) schedule() {
	after := budgetInterval
	if b.left < 0 {
		after = max(after, time.Duration(float64(-b.left)/b.processors()))
	}
	after = min(after, budgetLongest)
	if b.timer == nil {
		b.timer = time.AfterFunc(after, b.tick)
		return
	}
	b.timer.Reset(after)
}

// tick lets work of the queue begin: as many pieces as there is time for.
func (b *budget) tick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	now := time.Now()
	b.sample(now)
	switch {
	case b.left >= 0:
		n := 1 + int(b.left/max(b.cost, time.Microsecond))
		b.release(n)
		b.last = now
	case now.Sub(b.last) >= budgetLongest:
		b.release(1)
		b.last = now
	}
	if len(b.queue) > 0 {
		b.schedule()
	}
}

// release lets the first n pieces of work of the queue begin.
func (b *budget) release(n int) {
	n = min(n, len(b.queue))
	for _, turn := range b.queue[:n] {
		close(turn)
	}
	b.queue = slices.Delete(b.queue, 0, n)
	b.begun += n
}

// processorTime returns the processor time that the process has used.
func processorTime() time.Duration {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
