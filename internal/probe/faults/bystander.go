package faults

import (
	"runtime"
	"sync/atomic"
)

// bystander is a thread of this process that has nothing to do with the
// migration, as a destination's other channels and the guest's own processors
// have little. Its processor caches translations of the same page tables, so
// that a mapping that is replaced has to be flushed there, too.
type bystander struct {
	stopped atomic.Bool
	done    chan struct{}
}

// newBystander returns once the thread runs. With a single processor it would
// only take time from the measurement, and there is none.
func newBystander() *bystander {
	b := &bystander{done: make(chan struct{})}
	if runtime.GOMAXPROCS(0) < 2 || runtime.NumCPU() < 2 {
		close(b.done)
		return b
	}
	started := make(chan struct{})
	go func() {
		defer close(b.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		// Small enough for the nearest cache: it takes no bandwidth.
		var buffer [4 * pageSize]byte
		close(started)
		for i := 0; !b.stopped.Load(); i += pageSize {
			buffer[i%len(buffer)]++
		}
	}()
	<-started
	return b
}

func (b *bystander) stop() {
	b.stopped.Store(true)
	<-b.done
}
