package relay

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// budget bounds the processor time of the process. A sample of the time used is taken
// at regular intervals; while more was used than allowed, no further packet is begun.
type budget struct {
	bound    float64    // processors; 0 depends on the migrations under way
	underWay func() int // migrations
	quit     chan struct{}
	loop     sync.WaitGroup

	mu   sync.Mutex
	open chan struct{} // closed while packets may be begun
	shut bool
}

const (
	budgetInterval = 20 * time.Millisecond
	// budgetSaved is how much unused time counts later.
	budgetSaved = 100 * time.Millisecond
)

// startBudget starts to observe the process. cpus is as in Config.
func startBudget(cpus float64, underWay func() int) *budget {
	b := &budget{bound: cpus, underWay: underWay, quit: make(chan struct{}), open: make(chan struct{})}
	close(b.open)
	if cpus >= 0 {
		b.loop.Go(b.run)
	}
	return b
}

func (b *budget) stop() {
	close(b.quit)
	b.loop.Wait()
}

// processors returns the bound that applies now.
func (b *budget) processors() float64 {
	if b.bound > 0 {
		return b.bound
	}
	most := max(1, float64(runtime.NumCPU())/2)
	return min(max(1, float64(b.underWay())), most)
}

func (b *budget) run() {
	ticker := time.NewTicker(budgetInterval)
	defer ticker.Stop()
	used, at := processorTime(), time.Now()
	var left time.Duration
	for {
		select {
		case <-b.quit:
			b.allow(true)
			return
		case <-ticker.C:
		}
		nowUsed, now := processorTime(), time.Now()
		left += time.Duration(b.processors()*float64(now.Sub(at))) - (nowUsed - used)
		left = min(left, budgetSaved)
		used, at = nowUsed, now
		b.allow(left >= 0)
	}
}

func (b *budget) allow(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case yes && b.shut:
		close(b.open)
	case !yes && !b.shut:
		b.open = make(chan struct{})
	}
	b.shut = !yes
}

// wait returns when the process may use processor time.
func (b *budget) wait(ctx context.Context) error {
	b.mu.Lock()
	open := b.open
	b.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// processorTime returns the processor time that the process has used.
func processorTime() time.Duration {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
