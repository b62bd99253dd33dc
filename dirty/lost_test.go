package dirty

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/hugepages"
)

// discards are the ways to discard pages of a file.
var discards = map[string]func(f *os.File, mem []byte, at, n int) error{
	"MADV_REMOVE": func(_ *os.File, mem []byte, at, n int) error {
		return unix.Madvise(mem[at:at+n], unix.MADV_REMOVE)
	},
	"a punched hole": func(f *os.File, _ []byte, at, n int) error { return punch(f, at, n) },
	// Another process that has the file open can do this.
	"a hole punched through another open file": func(f *os.File, _ []byte, at, n int) error {
		other, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer other.Close()
		return punch(other, at, n)
	},
}

func punch(f *os.File, at, n int) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(n))
}

func fill(mem []byte) {
	for at := 0; at < len(mem); at += 4096 {
		mem[at] = 1
	}
}

func (l *Log) expectDirty(t *testing.T, what string, want ...[2]int) {
	t.Helper()
	waitForWatcher(l)
	if got := pages(collect(t, l)); !equal(got, want) {
		t.Errorf("%s: %d pages are dirty: %v; want %v", what, len(got), got, want)
	}
}

func TestLog_DiscardedFilePagesAreDirty(t *testing.T) {
	for _, mode := range modes() {
		for how, discard := range discards {
			t.Run(string(mode)+"/"+how, func(t *testing.T) {
				m := newMemory(t, guestmem.Options{Backing: guestmem.Memfd}, 4096, 64<<10, 4<<20)
				b := m.Layout().Blocks[1]
				f, mem := m.File(b), m.Bytes(b)
				fill(mem[:512*4096]) // the rest stays a hole
				l := start(t, m, mode)
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				l.expectDirty(t, "at the start")
				must(discard(f, mem, 2*4096, 2*4096))
				l.expectDirty(t, "after two pages were discarded", [2]int{1, 2}, [2]int{1, 3})
				must(discard(f, mem, 2*4096, 3*4096))
				l.expectDirty(t, "after a page more was discarded", [2]int{1, 4})
				l.expectDirty(t, "after nothing")
				mem[3*4096] = 7
				l.expectDirty(t, "after a page was written again", [2]int{1, 3})
				must(discard(f, mem, 3*4096, 4096))
				l.expectDirty(t, "after that was discarded", [2]int{1, 3})
				mem[9*4096] = 7
				must(discard(f, mem, 9*4096, 4096))
				l.expectDirty(t, "after a page was written and discarded", [2]int{1, 9})
				must(discard(f, mem, 600*4096, 4096))
				l.expectDirty(t, "after a page was discarded that is a hole")
				must(discard(f, mem, 0, len(mem)))
				if n := collect(t, l).Count(); n != 512-4 {
					t.Errorf("after all was discarded: %d pages are dirty", n)
				}
				l.expectDirty(t, "at the end")
			})
		}
	}
}

func TestLog_DiscardedPagesOfAnAttachedFileAreDirty(t *testing.T) {
	for _, mode := range modes() {
		fd, err := unix.MemfdCreate("machine", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "machine")
		defer f.Close()
		if err := f.Truncate(1 << 20); err != nil {
			t.Fatal(err)
		}
		mem, err := unix.Mmap(fd, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		layout, err := guest.NewLayout(4096, []guest.Block{{Name: "a", Length: 1 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		m, err := guestmem.Attach(layout, [][]byte{mem})
		if err != nil {
			t.Fatal(err)
		}
		fill(mem)
		l := start(t, m, mode)
		l.expectDirty(t, "at the start")
		if err := punch(f, 5*4096, 2*4096); err != nil {
			t.Fatal(err)
		}
		l.expectDirty(t, "after two pages were discarded", [2]int{0, 5}, [2]int{0, 6})
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
		unix.Munmap(mem)
	}
}

func TestLog_DiscardedHugetlbPagesAreDirty(t *testing.T) {
	giveBack, err := hugepages.Reserve(4)
	if err != nil {
		if os.Getuid() != 0 {
			t.Skipf("setting huge pages aside needs root: %v", err)
		}
		t.Fatal(err)
	}
	defer giveBack()
	for _, mode := range modes() {
		for _, backing := range []guestmem.Backing{guestmem.Anonymous, guestmem.Memfd} {
			t.Run(string(mode)+"/"+string(backing), func(t *testing.T) {
				m := newMemory(t, guestmem.Options{Backing: backing, Pages: guestmem.HugeTLB, HugePageSize: hugepages.Size}, 4096, 8<<20)
				mem := m.Bytes(m.Layout().Blocks[0])
				fill(mem)
				l := start(t, m, mode)
				l.expectDirty(t, "at the start")
				advice := unix.MADV_DONTNEED
				if backing == guestmem.Memfd {
					advice = unix.MADV_REMOVE
				}
				if err := unix.Madvise(mem[2<<20:4<<20], advice); err != nil {
					t.Fatal(err)
				}
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

func TestLog_DiscardedPagesAreFoundWithoutPagemapScan(t *testing.T) {
	for _, mode := range modes() {
		m := newMemory(t, guestmem.Options{Backing: guestmem.Memfd}, 4096, 64<<10, 1<<20)
		b := m.Layout().Blocks[1]
		fill(m.Bytes(b)[:100*4096])
		l := start(t, m, mode)
		var lost *lostPages
		switch tracker := l.tracker.(type) {
		case *async:
			lost = tracker.lost
		case *syncTracker:
			lost = tracker.lost
		}
		lost.scan = lost.scanEntries
		l.expectDirty(t, "at the start")
		if err := punch(m.File(b), 7*4096, 2*4096); err != nil {
			t.Fatal(err)
		}
		l.expectDirty(t, "after two pages were discarded", [2]int{1, 7}, [2]int{1, 8})
	}
}

// BenchmarkLookForDiscardedPages is what the look adds to a Collect.
func BenchmarkLookForDiscardedPages(b *testing.B) {
	for name, filled := range map[string]int{"all there": 1 << 30, "nothing there": 0} {
		b.Run(name, func(b *testing.B) {
			m := newMemory(b, guestmem.Options{Backing: guestmem.Memfd}, 4096, 1<<30)
			fill(m.Bytes(m.Layout().Blocks[0])[:filled])
			l := start(b, m, Async)
			bitmap := guest.NewBitmap(m.Layout())
			var lost = l.tracker.(*async).lost
			b.ResetTimer()
			for b.Loop() {
				if err := lost.collect(bitmap); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N), "µs/GiB")
		})
	}
}
