package faults

import (
	"runtime"
	"sync/atomic"
)

// bystander is a thread of this process that does not take part in the migration. Its
// processor caches translations of the same page tables, so the kernel must flush a
// replaced mapping there too. In a real destination, other channels and the guest's
// processors have this effect.
type bystander struct {
	stopped atomic.Bool
	done    chan struct{}
}

// newBystander starts the thread and waits until it runs. On a machine with one processor it
// starts no thread, which would only slow the measurement down.
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
		// The buffer fits into the first cache, so it uses no memory bandwidth.
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
