package snapshot

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/guest"
)

func benchTable(tb testing.TB, pages uint64) *table {
	tb.Helper()
	l, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: pages * 4096}})
	if err != nil {
		tb.Fatal(err)
	}
	return newTable(l, l.Blocks[0])
}

// BenchmarkTablePut puts pages in the order in which an ordinary guest sends
// them: ascending, a packet of 128 at a time, from several lanes at once.
func BenchmarkTablePut(b *testing.B) {
	const pages = 1 << 22 // 16 GiB
	t := benchTable(b, pages)
	var packets atomic.Uint64
	b.RunParallel(func(pb *testing.PB) {
		n := uint64(0)
		for pb.Next() {
			if n%128 == 0 {
				n = packets.Add(1) * 128
			}
			t.put(n%pages, newLocation(n/128, int(n%128)))
			n++
		}
	})
}

// BenchmarkTablePutAtRandom puts pages without any order, as later rounds do.
func BenchmarkTablePutAtRandom(b *testing.B) {
	const pages = 1 << 22
	t := benchTable(b, pages)
	b.RunParallel(func(pb *testing.PB) {
		r := rand.New(rand.NewPCG(rand.Uint64(), 1))
		for pb.Next() {
			n := r.Uint64N(pages)
			t.put(n, newLocation(n/128, int(n%128)))
		}
	})
}

// TestTable_HoldsTheNewestLocationInEitherForm puts and removes pages at random
// across the point at which a chunk's list becomes an array.
func TestTable_HoldsTheNewestLocationInEitherForm(t *testing.T) {
	for _, spread := range []uint64{fewPages / 2, fewPages + 100, chunkPages} {
		table := benchTable(t, 2*chunkPages)
		r := rand.New(rand.NewPCG(spread, 9))
		want := map[uint64]location{}
		for i := range uint64(3 * fewPages) {
			page := chunkPages/2 + r.Uint64N(spread)
			l := location(0)
			if r.IntN(8) > 0 {
				l = newLocation(i*1_000_003%(maxExtents-1), int(i%128))
			}
			table.put(page, l)
			if want[page] = l; l == 0 {
				delete(want, page)
			}
		}
		for n := range 2 {
			last := -1
			for _, e := range table.entries(nil, n) {
				page := uint64(n*chunkPages) + uint64(e.page)
				if int(e.page) <= last || want[page] != e.loc {
					t.Fatalf("of %d pages, page %d after %d is at %#x, want %#x", spread, page, last, uint64(e.loc), uint64(want[page]))
				}
				last = int(e.page)
				delete(want, page)
			}
		}
		if len(want) != 0 {
			t.Errorf("of %d pages, %d were forgotten", spread, len(want))
		}
	}
}

// TestTable_PutsOfManyLanesMeetInOneChunk has all lanes cross the same
// promotion.
func TestTable_PutsOfManyLanesMeetInOneChunk(t *testing.T) {
	const lanes = 8
	table := benchTable(t, chunkPages)
	var wg sync.WaitGroup
	for lane := range uint64(lanes) {
		wg.Go(func() {
			for page := lane; page < 4*fewPages; page += lanes {
				table.put(page, newLocation(page, int(lane)))
			}
		})
	}
	wg.Wait()
	entries := table.entries(nil, 0)
	if len(entries) != 4*fewPages {
		t.Fatalf("%d pages, want %d", len(entries), 4*fewPages)
	}
	for i, e := range entries {
		if e.page != uint32(i) || e.loc != newLocation(uint64(i), i%lanes) {
			t.Fatalf("page %d is at %#x", e.page, uint64(e.loc))
		}
	}
}
