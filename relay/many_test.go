package relay_test

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/relay"
)

// memory is what doc.go states: MiB of a connection at the two relays.
var memory = map[relay.Compression]struct{ source, destination int64 }{
	relay.None: {3, 2}, relay.QPL: {12, 7}, relay.Zstd: {12, 7}, relay.Auto: {21, 12},
}

// TestMany_MigrationsAtOnce moves many migrations through one pair of relays, which both
// are in this process. Every byte arrives, the memory is what doc.go states, and no
// migration starves. Progress is compared with a fixed method only: with Auto, a migration
// whose level is raw moves many times the bytes of one whose level is zstd.
func TestMany_MigrationsAtOnce(t *testing.T) {
	migrations, size := 50, int64(64<<20)
	if testing.Short() || raceEnabled {
		migrations, size = 10, 48<<20
	}
	const cache = 1 << 20
	for _, run := range []struct {
		compression relay.Compression
		size        int64
		fair        bool
	}{{relay.Auto, size, false}, {relay.None, size / 16, false}, {relay.QPL, size, true}, {relay.Zstd, size / 16, false}} {
		t.Run(string(run.compression), func(t *testing.T) {
			m := newMany(t, relay.Config{Compression: run.compression, Cache: cache, CPUs: -1}, migrations, run.size)
			runtime.GC()
			before := liveMemory()
			peak, stop := before, make(chan struct{})
			var watching sync.WaitGroup
			windows := 0
			if run.fair {
				watching.Go(func() { windows = m.watchProgress(t, stop) })
			}
			watching.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						peak = max(peak, liveMemory())
					}
				}
			})
			m.run(t)
			close(stop)
			watching.Wait()
			m.check(t)
			of := memory[run.compression]
			connections := int64(migrations * (1 + m.channels))
			bound := connections*(of.source+of.destination)<<20 + int64(migrations)*(2*cache+4<<20)
			t.Logf("memory in use %d MiB (at most %d), %d windows", (peak-before)>>20, bound>>20, windows)
			if peak-before > bound {
				t.Errorf("%d MiB of memory in use, more than the %d that doc.go states for %d connections of %d migrations", (peak-before)>>20, bound>>20, connections, migrations)
			}
			if run.fair && windows < 2 {
				t.Errorf("%d windows of progress were seen, want 2 or more", windows)
			}
		})
	}
}

// liveMemory is what the last collection of garbage left, in bytes.
func liveMemory() int64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// progressWindow is the number of bytes that the migrations move on average between two
// looks at their progress. It is several times what the buffers of a migration hold.
const progressWindow = 16 << 20

// watchProgress looks at what has arrived until stop is closed. A window is the time in
// which all migrations together move progressWindow for each: in it, each that has not
// ended has to move some bytes. So the speed of the machine does not matter.
func (m *many) watchProgress(t testing.TB, stop <-chan struct{}) (windows int) {
	before := make([]int64, m.migrations)
	var sumBefore int64
	for {
		select {
		case <-stop:
			return windows
		case <-time.After(5 * time.Millisecond):
		}
		var sum int64
		for i := range m.arrived {
			sum += m.arrived[i].Load()
		}
		if sum-sumBefore < progressWindow*int64(m.migrations) {
			continue
		}
		windows++
		sumBefore = sum
		for i := range m.arrived {
			now := m.arrived[i].Load()
			if now == before[i] && now < m.size {
				t.Errorf("migration %d stands at %d of %d bytes while the others move %d each", i, now, m.size, progressWindow)
			}
			before[i] = now
		}
	}
}

// TestMany_ProcessorTimeIsBounded has more work than half a processor can do. Both relays,
// the sources and the sinks are in one process, so that both budgets see all of its time.
func TestMany_ProcessorTimeIsBounded(t *testing.T) {
	const cpus, during = 0.5, 4 * time.Second
	m := newMany(t, relay.Config{CPUs: cpus}, 5, 1<<40)
	usedBefore, began := processorTime(t), time.Now()
	m.until = began.Add(during)
	m.run(t)
	used, passed := processorTime(t)-usedBefore, time.Since(began)
	m.check(t)
	// A fifth is tolerance. The slack is what is saved, and a piece of work of each
	// connection, at the beginning and at the end.
	slack := 500 * time.Millisecond
	if raceEnabled {
		slack *= 10
	}
	t.Logf("%v of processor time in %v, %d MiB", used, passed, m.source.Stats().Total.FromQEMU>>20)
	if most := time.Duration(1.2*cpus*float64(passed)) + slack; used > most {
		t.Errorf("%v of processor time in %v, want at most %v with %v processors", used, passed, most, cpus)
	}
	for i := range m.arrived {
		if n := m.arrived[i].Load(); n < packetPages*4096 {
			t.Errorf("migration %d moved %d bytes, want a packet or more", i, n)
		}
	}
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
