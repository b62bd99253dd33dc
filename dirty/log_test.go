package dirty

import (
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/hugepages"
)

func newMemory(t testing.TB, opts guestmem.Options, pageSize int, lengths ...uint64) *guestmem.Memory {
	t.Helper()
	var blocks []guest.Block
	for i, n := range lengths {
		blocks = append(blocks, guest.Block{Name: string(rune('a' + i)), Length: n})
	}
	l, err := guest.NewLayout(pageSize, blocks)
	if err != nil {
		t.Fatal(err)
	}
	m, err := guestmem.NewWith(l, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func start(t testing.TB, m *guestmem.Memory, mode Mode) *Log {
	t.Helper()
	l, err := New(m, Options{Mode: mode})
	if err != nil {
		t.Fatal(err)
	}
	started(t, l)
	return l
}

// started starts a log and stops it when the test ends.
func started(t testing.TB, l guest.DirtyLog) {
	t.Helper()
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func collect(t testing.TB, l *Log) guest.Bitmap {
	t.Helper()
	return collected(t, l, l.layout)
}

func collected(t testing.TB, l guest.DirtyLog, layout *guest.Layout) guest.Bitmap {
	t.Helper()
	b := guest.NewBitmap(layout)
	if err := l.Collect(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// waitForWatcher waits until the thread of the mode Sync has lifted the protection of
// every page that it recorded. A Collect before that may report a page twice.
func waitForWatcher(l *Log) {
	if s, ok := l.tracker.(*syncTracker); ok {
		for atomic.LoadUint64(&s.watch.sequence)%2 == 1 {
			runtime.Gosched()
		}
	}
}

// pages lists the block and the page of each set bit.
func pages(b guest.Bitmap) (list [][2]int) {
	for i, words := range b {
		for w, word := range words {
			for bit := range 64 {
				if word&(1<<bit) != 0 {
					list = append(list, [2]int{i, w*64 + bit})
				}
			}
		}
	}
	return list
}

func equal(a, b [][2]int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// modes returns the modes that this processor supports.
func modes() []Mode {
	if !haveWatcher {
		return []Mode{Async}
	}
	return []Mode{Async, Sync}
}

// eachMode runs a test in both modes on memory of each kind.
func eachMode(t *testing.T, run func(t *testing.T, mode Mode, opts guestmem.Options)) {
	for _, mode := range modes() {
		for name, opts := range map[string]guestmem.Options{
			"anonymous":   {},
			"memfd":       {Backing: guestmem.Memfd},
			"transparent": {Pages: guestmem.TransparentHuge, Prealloc: guestmem.PreallocPopulate},
			"populated":   {Prealloc: guestmem.PreallocPopulate},
		} {
			t.Run(string(mode)+"/"+name, func(t *testing.T) { run(t, mode, opts) })
		}
	}
}

func TestLog_WrittenPageIsCollectedOnce(t *testing.T) {
	eachMode(t, func(t *testing.T, mode Mode, opts guestmem.Options) {
		m := newMemory(t, opts, 4096, 4<<20, 1<<20)
		a, b := m.Bytes(m.Layout().Blocks[0]), m.Bytes(m.Layout().Blocks[1])
		a[0], a[4096*100] = 1, 1 // before Start: not dirty
		l := start(t, m, mode)
		if got := pages(collect(t, l)); len(got) != 0 {
			t.Fatalf("dirty before anything was written: %v", got)
		}
		a[4096*100+4095] = 2 // was there before
		a[4096*511] = 2      // never touched, or populated only
		_ = a[4096*7]        // a read is no write
		copy(b[4096*3-1:], "xy")
		waitForWatcher(l)
		want := [][2]int{{0, 100}, {0, 511}, {1, 2}, {1, 3}}
		if got := pages(collect(t, l)); !equal(got, want) {
			t.Errorf("dirty: %v, want %v", got, want)
		}
		if got := pages(collect(t, l)); len(got) != 0 {
			t.Errorf("found again: %v", got)
		}
		a[4096*100] = 3
		if got := pages(collect(t, l)); !equal(got, [][2]int{{0, 100}}) {
			t.Errorf("after one more write: %v", got)
		}
	})
}

func TestLog_CollectKeepsOtherBits(t *testing.T) {
	m := newMemory(t, guestmem.Options{}, 4096, 1<<20)
	l := start(t, m, Auto)
	m.Bytes(m.Layout().Blocks[0])[4096] = 1
	b := guest.NewBitmap(m.Layout())
	b[0][0] = 1 << 9
	if err := l.Collect(b); err != nil {
		t.Fatal(err)
	}
	if b[0][0] != 1<<9|1<<1 {
		t.Errorf("bitmap %#x", b[0][0])
	}
}

func TestLog_TargetPagesOfAnySize(t *testing.T) {
	for _, tt := range []struct {
		pageSize int
		want     [][2]int
	}{
		{1024, [][2]int{{0, 12}, {0, 13}, {0, 14}, {0, 15}}},
		{4096, [][2]int{{0, 3}}},
		{65536, [][2]int{{0, 0}}},
	} {
		m := newMemory(t, guestmem.Options{}, tt.pageSize, 1<<20)
		l := start(t, m, Auto)
		m.Bytes(m.Layout().Blocks[0])[3*4096+5] = 1
		if got := pages(collect(t, l)); !equal(got, tt.want) {
			t.Errorf("pages of %d bytes: %v, want %v", tt.pageSize, got, tt.want)
		}
	}
}

func TestLog_SystemCallWritesAreCollected(t *testing.T) {
	eachMode(t, func(t *testing.T, mode Mode, opts guestmem.Options) {
		m := newMemory(t, opts, 4096, 1<<20)
		l := start(t, m, mode)
		var p [2]int
		if err := unix.Pipe(p[:]); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(p[0])
		defer unix.Close(p[1])
		unix.Write(p[1], []byte("hello"))
		mem := m.Bytes(m.Layout().Blocks[0])
		if n, err := unix.Read(p[0], mem[4096*9:4096*9+5]); n != 5 || err != nil {
			t.Fatal(n, err)
		}
		if got := pages(collect(t, l)); !equal(got, [][2]int{{0, 9}}) {
			t.Errorf("dirty: %v", got)
		}
	})
}

func TestLog_DiscardedPagesAreDirty(t *testing.T) {
	for _, mode := range modes() {
		m := newMemory(t, guestmem.Options{}, 4096, 1<<20)
		mem := m.Bytes(m.Layout().Blocks[0])
		mem[0], mem[4096] = 1, 1
		l := start(t, m, mode)
		if err := unix.Madvise(mem[:4096], unix.MADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		if got := pages(collect(t, l)); !equal(got, [][2]int{{0, 0}}) {
			t.Errorf("%s: dirty: %v", mode, got)
		}
		if got := pages(collect(t, l)); len(got) != 0 {
			t.Errorf("%s: dirty again: %v", mode, got)
		}
		mem[17] = 1 // the page is protected again
		waitForWatcher(l)
		if got := pages(collect(t, l)); !equal(got, [][2]int{{0, 0}}) {
			t.Errorf("%s: dirty after a write: %v", mode, got)
		}
	}
}

// absentLogs are the logs that know what is absent.
var absentLogs = map[string]func(testing.TB, *guestmem.Memory) guest.AbsentLog{
	"async": func(t testing.TB, m *guestmem.Memory) guest.AbsentLog { return start(t, m, Async) },
	"marks": func(t testing.TB, m *guestmem.Memory) guest.AbsentLog { return startMarks(t, m) },
}

func TestAbsent_ReportsAbsentPages(t *testing.T) {
	for name, log := range absentLogs {
		for _, pageSize := range []int{1024, 4096, 16384} {
			m := newMemory(t, guestmem.Options{}, pageSize, 1<<20, 64<<10)
			mem := m.Bytes(m.Layout().Blocks[0])
			mem[0], mem[5*4096], mem[255*4096] = 1, 1, 1
			l := log(t, m)
			b := guest.NewBitmap(m.Layout())
			if err := l.Absent(b); err != nil {
				t.Fatal(err)
			}
			for at := 0; at < len(mem); at += pageSize {
				page, os := at/pageSize, max(pageSize, 4096)
				there := at/os == 0 || at/os == 5*4096/os || at/os == 255*4096/os
				if got := b[0][page/64]&(1<<(page%64)) != 0; got == there {
					t.Errorf("%s, pages of %d: page %d is absent: %v", name, pageSize, page, got)
				}
			}
			if n := guest.Bitmap(b[1:]).Count(); n != 64<<10/uint64(pageSize) {
				t.Errorf("%s, pages of %d: %d pages of a block that nobody touched are absent", name, pageSize, n)
			}
		}
	}
}

func TestAbsent_PageThatBecomesPresentIsDirty(t *testing.T) {
	for _, pageSize := range []int{1024, 4096, 16384} {
		m := newMemory(t, guestmem.Options{}, pageSize, 1<<20)
		l := start(t, m, Async)
		if err := l.Absent(guest.NewBitmap(m.Layout())); err != nil {
			t.Fatal(err)
		}
		m.Bytes(m.Layout().Blocks[0])[8*4096] = 1
		got := pages(collect(t, l))
		if want := max(1, 4096/pageSize); len(got) != want || got[0] != [2]int{0, 8 * 4096 / pageSize} {
			t.Errorf("pages of %d: dirty: %v", pageSize, got)
		}
	}
}

func TestAbsent_ReportsNoPageOfSharedMemory(t *testing.T) {
	m := newMemory(t, guestmem.Options{Backing: guestmem.Memfd}, 4096, 1<<20)
	if _, err := m.File(m.Layout().Blocks[0]).WriteAt([]byte("hidden"), 8192); err != nil {
		t.Fatal(err)
	}
	for name, log := range absentLogs {
		b := guest.NewBitmap(m.Layout())
		if err := log(t, m).Absent(b); err != nil {
			t.Fatal(err)
		}
		if n := b.Count(); n != 0 {
			t.Errorf("%s: %d pages of a memfd are absent", name, n)
		}
	}
}

func TestLog_HugetlbPageIsDirtyWhole(t *testing.T) {
	giveBack, err := hugepages.Reserve(4)
	if err != nil {
		if os.Getuid() != 0 {
			t.Skipf("setting huge pages aside needs root: %v", err)
		}
		t.Fatal(err)
	}
	defer giveBack()
	for _, backing := range []guestmem.Backing{guestmem.Anonymous, guestmem.Memfd} {
		for _, mode := range []Mode{Async, Sync} {
			if mode == Sync && !haveWatcher {
				continue
			}
			t.Run(string(backing)+"/"+string(mode), func(t *testing.T) {
				m := newMemory(t, guestmem.Options{Backing: backing, Pages: guestmem.HugeTLB, HugePageSize: hugepages.Size}, 4096, 8<<20)
				l := start(t, m, mode)
				m.Bytes(m.Layout().Blocks[0])[3<<20] = 1
				waitForWatcher(l)
				got := collect(t, l)
				if n := got.Count(); n != 512 || got[0][512/64] != ^uint64(0) {
					t.Errorf("%d pages are dirty, want the 512 of the second huge page", n)
				}
				if n := collect(t, l).Count(); n != 0 {
					t.Errorf("%d pages are dirty again", n)
				}
				if err := l.Stop(); err != nil {
					t.Error(err)
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestLog_NoWriteIsMissedUnderLoad(t *testing.T) {
	eachMode(t, func(t *testing.T, mode Mode, opts guestmem.Options) {
		m := newMemory(t, opts, 4096, 4<<20)
		gc := time.NewTicker(3 * time.Millisecond)
		defer gc.Stop()
		noWriteIsMissed(t, m, start(t, m, mode), func(at, length uint64) {}, func() {
			select {
			case <-gc.C:
				runtime.GC() // a waiting writer must not block it
			default:
			}
		})
	})
}

// noWriteIsMissed starts writers that increment counters in random pages and call mark.
// A reader copies each page that Collect reports, and calls between in each round. At
// the end the copy must be equal to the memory.
func noWriteIsMissed(t *testing.T, m *guestmem.Memory, l guest.DirtyLog, mark func(at, length uint64), between func()) {
	mem := m.Bytes(m.Layout().Blocks[0])
	mirror := make([]byte, len(mem))
	var stop atomic.Bool
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 7))
			line := make([]byte, 512)
			for !stop.Load() {
				for i := range line {
					line[i]++
				}
				// A copy, which the runtime cannot interrupt, to a
				// place of the writer's own in the page.
				at := r.IntN(len(mem)/4096)*4096 + w*1024
				copy(mem[at:], line)
				mark(uint64(at), uint64(len(line)))
			}
		})
	}
	read := func() {
		for _, p := range pages(collected(t, l, m.Layout())) {
			copy(mirror[p[1]*4096:(p[1]+1)*4096], mem[p[1]*4096:])
		}
	}
	writing := 400 * time.Millisecond
	if testing.Short() {
		writing /= 4
	}
	for end := time.Now().Add(writing); time.Now().Before(end); read() {
		between()
	}
	stop.Store(true)
	writers.Wait()
	read()
	for i := range mem {
		if mem[i] != mirror[i] {
			t.Fatalf("byte %#x is %d, and was %d when its page was last dirty", i, mem[i], mirror[i])
		}
	}
}

func TestLog_StartsAgainAfterStop(t *testing.T) {
	eachMode(t, func(t *testing.T, mode Mode, opts guestmem.Options) {
		m := newMemory(t, opts, 4096, 1<<20)
		mem := m.Bytes(m.Layout().Blocks[0])
		l := start(t, m, mode)
		mem[4096] = 1
		for range 3 {
			if err := l.Stop(); err != nil {
				t.Fatal(err)
			}
			mem[0], mem[8192] = 1, 1
			if err := l.Start(); err != nil {
				t.Fatal(err)
			}
			if got := pages(collect(t, l)); len(got) != 0 {
				t.Errorf("dirty after starting again: %v", got)
			}
		}
	})
}

func TestProbe_AgreesWithTheChosenMode(t *testing.T) {
	has := Probe()
	t.Logf("async: %v", has.Async)
	t.Logf("sync: %v", has.Sync)
	if has.Async != nil && has.Sync != nil {
		t.Error("this kernel supports neither mode")
	}
	for mode, err := range map[Mode]error{Async: has.Async, Sync: has.Sync} {
		got, chosen := chooseMode(mode)
		if err == nil && (chosen != nil || got != mode) || err != nil && !errors.Is(chosen, ErrUnsupported) {
			t.Errorf("%s: the probe says %v, choosing %v", mode, err, chosen)
		}
	}
}

func TestAuto_PrefersAsync(t *testing.T) {
	l, err := New(newMemory(t, guestmem.Options{}, 4096, 1<<20), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := Async
	if Probe().Async != nil {
		want = Sync
	}
	if l.Mode() != want {
		t.Errorf("the mode is %s, want %s", l.Mode(), want)
	}
	t.Logf("the mode is %s", l.Mode())
}

func TestLog_MisuseIsAnError(t *testing.T) {
	m := newMemory(t, guestmem.Options{}, 4096, 1<<20)
	l, err := New(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := guest.NewBitmap(m.Layout())
	if err := l.Collect(b); !errors.Is(err, ErrState) {
		t.Errorf("Collect before Start: %v", err)
	}
	if err := l.Stop(); err != nil {
		t.Errorf("Stop before Start: %v", err)
	}
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	if err := l.Start(); !errors.Is(err, ErrState) {
		t.Errorf("Start twice: %v", err)
	}
	if err := l.Collect(b[:0]); !errors.Is(err, ErrState) {
		t.Errorf("a bitmap without blocks: %v", err)
	}
	if err := l.Collect(guest.Bitmap{make([]uint64, 1)}); !errors.Is(err, ErrState) {
		t.Errorf("a bitmap too short: %v", err)
	}
	other, err := New(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err == nil || !strings.Contains(err.Error(), "already registered") {
		t.Errorf("two logs of one memory: %v", err)
	}
	if _, err := New(m, Options{Mode: "soon"}); !errors.Is(err, ErrState) {
		t.Errorf("an unknown mode: %v", err)
	}
	if _, err := New(new(guestmem.Memory), Options{}); !errors.Is(err, ErrState) {
		t.Errorf("memory without blocks: %v", err)
	}
	odd := make([]byte, 3*4096)
	layout, _ := guest.NewLayout(1024, []guest.Block{{Name: "a", Length: 1024}})
	at, err := guestmem.Attach(layout, [][]byte{odd[1024:2048]})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(at, Options{}); !errors.Is(err, ErrState) {
		t.Errorf("memory that is no whole page: %v", err)
	}
}
