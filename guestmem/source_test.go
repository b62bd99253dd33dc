package guestmem

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/guest"
)

// yielded counts how often a source yielded each page of each block, as a normal
// page and as a zero page.
type yielded struct{ normal, zero []map[uint64]int }

// drain reads a source to its end with several goroutines and checks every batch.
func drain(t testing.TB, src guest.Source, goroutines int) yielded {
	t.Helper()
	l := src.Layout()
	y := yielded{make([]map[uint64]int, len(l.Blocks)), make([]map[uint64]int, len(l.Blocks))}
	for i := range l.Blocks {
		y.normal[i], y.zero[i] = map[uint64]int{}, map[uint64]int{}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			var b guest.Batch
			for {
				err := src.Next(context.Background(), &b)
				if err == io.EOF {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				y.take(t, l, &b)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return y
}

func (y yielded) take(t testing.TB, l *guest.Layout, b *guest.Batch) {
	t.Helper()
	if n := len(b.Normal) + len(b.Zero); n == 0 || n > l.PacketPages() || len(b.Data) != len(b.Normal) || b.Form != guest.Raw {
		t.Errorf("a batch of %d normal and %d zero pages with %d of data, form %d", len(b.Normal), len(b.Zero), len(b.Data), b.Form)
	}
	for _, off := range append(append([]uint64(nil), b.Normal...), b.Zero...) {
		if err := l.CheckOffset(b.Block, off); err != nil {
			t.Error(err)
		}
	}
	for _, off := range b.Normal {
		y.normal[b.Block.Index][off]++
	}
	for _, off := range b.Zero {
		y.zero[b.Block.Index][off]++
	}
}

// scattered returns memory of three blocks in which every third page is not zero. No
// block is a multiple of a packet.
func scattered(t testing.TB, pageSize int) (*Memory, yielded) {
	t.Helper()
	run := uint64(guest.PacketPages(pageSize))
	size := uint64(pageSize)
	l := mustLayout(t, pageSize, guest.Block{Name: "a", Length: (3*run + 5) * size}, guest.Block{Name: "b", Length: size}, guest.Block{Name: "c", Length: (run + 1) * size})
	m := newMemory(t, l)
	want := yielded{}
	for _, b := range l.Blocks {
		normal, zero := map[uint64]int{}, map[uint64]int{}
		for page := range l.Pages(b) {
			if page%3 == 0 {
				m.Bytes(b)[page*size+size-1] = 1 // only the last byte is not zero
				normal[page*size] = 1
			} else {
				zero[page*size] = 1
			}
		}
		want.normal, want.zero = append(want.normal, normal), append(want.zero, zero)
	}
	return m, want
}

func TestSource_AllYieldsEachPageOnce(t *testing.T) {
	for _, pageSize := range []int{1 << 10, 4 << 10, 64 << 10} {
		m, want := scattered(t, pageSize)
		for _, goroutines := range []int{1, 8} {
			got := drain(t, m.All(), goroutines)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(yielded{})); diff != "" {
				t.Errorf("pages of %d bytes, %d goroutines (-want +got):\n%s", pageSize, goroutines, diff)
			}
		}
	}
}

func TestSource_YieldsTheMemoryItself(t *testing.T) {
	m, _ := scattered(t, 4096)
	var b guest.Batch
	if err := m.All().Next(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for i, off := range b.Normal {
		if &b.Data[i][0] != &m.Bytes(b.Block)[off] || len(b.Data[i]) != 4096 {
			t.Fatalf("data %d is not the page at %#x", i, off)
		}
	}
}

func TestSource_DirtyYieldsPagesWhoseBitIsSet(t *testing.T) {
	m, all := scattered(t, 4096)
	l := m.Layout()
	random := rand.New(rand.NewPCG(1, 2))
	for name, set := range map[string]func(page uint64) bool{
		"none":                      func(uint64) bool { return false },
		"all":                       func(uint64) bool { return true },
		"first and last of a word":  func(p uint64) bool { return p%64 == 0 || p%64 == 63 },
		"one in the second packet":  func(p uint64) bool { return p == 130 },
		"the last page of a block":  func(p uint64) bool { return p == 3*128+4 },
		"a random half":             func(uint64) bool { return random.IntN(2) == 0 },
		"every page of odd packets": func(p uint64) bool { return p/128%2 == 1 },
	} {
		t.Run(name, func(t *testing.T) {
			var dirty [][]uint64
			want := yielded{}
			for i, b := range l.Blocks {
				words := make([]uint64, (l.Pages(b)+63)/64)
				normal, zero := map[uint64]int{}, map[uint64]int{}
				for page := range l.Pages(b) {
					if !set(page) {
						continue
					}
					words[page/64] |= 1 << (page % 64)
					if off := page * 4096; all.normal[i][off] == 1 {
						normal[off] = 1
					} else {
						zero[off] = 1
					}
				}
				dirty = append(dirty, words)
				want.normal, want.zero = append(want.normal, normal), append(want.zero, zero)
			}
			src, err := m.Dirty(dirty)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, drain(t, src, 3), cmp.AllowUnexported(yielded{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSource_BitsBeyondTheBlockAreIgnored(t *testing.T) {
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 3 * 4096})
	src, err := newMemory(t, l).Dirty([][]uint64{{^uint64(0)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := drain(t, src, 1); len(got.zero[0]) != 3 || len(got.normal[0]) != 0 {
		t.Errorf("%d pages of 3", len(got.zero[0]))
	}
}

func TestSource_DirtyRefusesBitmapsOfAnotherLayout(t *testing.T) {
	m, _ := scattered(t, 4096)
	for name, dirty := range map[string][][]uint64{
		"too few":       {make([]uint64, 7), make([]uint64, 1)},
		"a word short":  {make([]uint64, 6), make([]uint64, 1), make([]uint64, 3)},
		"a word beyond": {make([]uint64, 7), make([]uint64, 2), make([]uint64, 3)},
	} {
		if _, err := m.Dirty(dirty); !errors.Is(err, guest.ErrLayout) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSource_EndsWithItsContext(t *testing.T) {
	m, _ := scattered(t, 4096)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.All().Next(ctx, new(guest.Batch)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSource_StaysAtEOF(t *testing.T) {
	m, _ := scattered(t, 4096)
	src := m.All()
	drain(t, src, 1)
	for range 3 {
		if err := src.Next(t.Context(), new(guest.Batch)); err != io.EOF {
			t.Errorf("got %v", err)
		}
	}
}
