package dirty

import (
	"errors"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

func startMarks(t testing.TB, m *guestmem.Memory) *Marks {
	t.Helper()
	l, err := NewMarks(m)
	if err != nil {
		t.Fatal(err)
	}
	started(t, l)
	return l
}

func TestMarks_NameEveryPageOfTheBytes(t *testing.T) {
	for _, tt := range []struct {
		name           string
		pageSize       int
		block          int
		offset, length uint64
		want           [][2]int
	}{
		{"nothing", 4096, 0, 4096, 0, nil},
		{"a byte", 4096, 0, 4096, 1, [][2]int{{0, 1}}},
		{"the last byte of a page and the first of the next", 4096, 0, 8191, 2, [][2]int{{0, 1}, {0, 2}}},
		{"over the end of a word", 4096, 0, 62 * 4096, 4 * 4096, [][2]int{{0, 62}, {0, 63}, {0, 64}, {0, 65}}},
		{"a whole word and one more", 1024, 0, 64 * 1024, 65 * 1024, span64(64, 129)},
		{"the end of a block", 4096, 1, 1<<20 - 1, 1, [][2]int{{1, 255}}},
		{"large pages", 65536, 1, 65535, 2, [][2]int{{1, 0}, {1, 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory(t, guestmem.Options{}, tt.pageSize, 1<<20, 1<<20)
			l := startMarks(t, m)
			l.Mark(m.Layout().Blocks[tt.block], tt.offset, tt.length)
			if got := pages(collected(t, l, m.Layout())); !equal(got, tt.want) {
				t.Errorf("pages %v, want %v", got, tt.want)
			}
			if got := pages(collected(t, l, m.Layout())); len(got) != 0 {
				t.Errorf("found again: %v", got)
			}
		})
	}
}

func span64(first, end int) (list [][2]int) {
	for i := first; i < end; i++ {
		list = append(list, [2]int{0, i})
	}
	return list
}

func TestMarks_OutsideTheBlockPanic(t *testing.T) {
	m := newMemory(t, guestmem.Options{}, 4096, 1<<20)
	l := startMarks(t, m)
	for _, at := range [][2]uint64{{1 << 20, 1}, {1<<20 - 1, 2}, {0, 1<<20 + 1}, {4096, ^uint64(0)}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d bytes at %#x were marked", at[1], at[0])
				}
			}()
			l.Mark(m.Layout().Blocks[0], at[0], at[1])
		}()
	}
	if n := collected(t, l, m.Layout()).Count(); n != 0 {
		t.Errorf("%d pages are dirty", n)
	}
}

func TestMarks_BeforeStartAreDiscarded(t *testing.T) {
	m := newMemory(t, guestmem.Options{}, 4096, 1<<20)
	l, err := NewMarks(m)
	if err != nil {
		t.Fatal(err)
	}
	b := m.Layout().Blocks[0]
	for range 2 {
		l.Mark(b, 0, 4096)
		if err := l.Start(); err != nil {
			t.Fatal(err)
		}
		l.Mark(b, 8192, 1)
		if got := pages(collected(t, l, m.Layout())); !equal(got, [][2]int{{0, 2}}) {
			t.Errorf("dirty: %v", got)
		}
		if err := l.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMarks_NoWriteIsMissedUnderLoad(t *testing.T) {
	m := newMemory(t, guestmem.Options{}, 4096, 1<<20)
	l, block := startMarks(t, m), m.Layout().Blocks[0]
	noWriteIsMissed(t, m, l, func(at, length uint64) { l.Mark(block, at, length) }, func() {})
}

func TestMarks_MisuseIsAnError(t *testing.T) {
	if _, err := NewMarks(new(guestmem.Memory)); !errors.Is(err, ErrState) {
		t.Errorf("memory without blocks: %v", err)
	}
	m := newMemory(t, guestmem.Options{}, 4096, 1<<20)
	l, err := NewMarks(m)
	if err != nil {
		t.Fatal(err)
	}
	b := guest.NewBitmap(m.Layout())
	if err := l.Stop(); err != nil {
		t.Errorf("Stop before Start: %v", err)
	}
	if err := l.Collect(b); !errors.Is(err, ErrState) {
		t.Errorf("Collect before Start: %v", err)
	}
	if err := l.Absent(b); !errors.Is(err, ErrState) {
		t.Errorf("Absent before Start: %v", err)
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
}

func BenchmarkMark(b *testing.B) {
	m := newMemory(b, guestmem.Options{}, 4096, 1<<30)
	l, block := startMarks(b, m), m.Layout().Blocks[0]
	b.ReportAllocs()
	for at := uint64(0); b.Loop(); at = (at + 4096*67) % (1 << 30) {
		l.Mark(block, at, 4096)
	}
}
