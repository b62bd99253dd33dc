package faults

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

// measured returns a report for a small memory, which several tests share.
var measured = sync.OnceValues(func() (*Report, error) {
	return Run(context.Background(), Options{Memory: 8 << 20, Runs: 3})
})

func report(t *testing.T) *Report {
	t.Helper()
	if testing.Short() {
		t.Skip("measures for seconds")
	}
	if os.Getpagesize() != pageSize {
		t.Skipf("this machine's pages have %d bytes: faults are not one a page", os.Getpagesize())
	}
	r, err := measured()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRun_FaultsAreAsExpected(t *testing.T) {
	r := report(t)
	shared, err := sharesZeroPage()
	if err != nil {
		t.Fatal(err)
	}
	copied := 0.0 // at the later write, of a page that was read
	if shared {
		copied = 1000
	}
	// data, zero and never written, and written later: arrival and write
	type want [4]float64
	for k, byPolicy := range map[Kind]map[Policy]want{
		None:        {ScanZeros: {1000, 1000, 1000, copied}, ReceivedBitmap: {1000, 0, 0, 1000}},
		PrivateFile: {ScanZeros: {1000, 1000, 1000, 1000}, ReceivedBitmap: {1000, 0, 0, 1000}},
		Touch:       {ScanZeros: {}, ReceivedBitmap: {}},
		Populate:    {ScanZeros: {}, ReceivedBitmap: {}},
		HugeTLB:     {ScanZeros: {}, ReceivedBitmap: {}},
	} {
		for p, want := range byPolicy {
			for _, path := range []Path{Direct, Bounce} {
				f := r.figures(Cell{k, p, path})
				if f == nil && k == HugeTLB {
					t.Log("no huge pages here")
					continue
				}
				if f == nil {
					t.Fatalf("%s, %s, %s was not measured", k, p, path)
				}
				got := [4]float64{f.DataFaults, f.ZeroFaults, f.LaterArrivalFaults, f.LaterWriteFaults}
				for i := range want {
					// 30 in 1,000 are 20 faults of 682 pages, for the Go runtime.
					if math.Abs(got[i]-want[i]) > 30 {
						t.Errorf("%s, %s, %s: faults %.0f, want %v", k, p, path, got, want)
						break
					}
				}
			}
		}
	}
}

func TestRun_PreallocationFaultsAtSetup(t *testing.T) {
	r := report(t)
	for k, want := range map[Kind]float64{None: 0, PrivateFile: 0, Touch: 1000, Populate: 1000} {
		// The tolerance is for the process's other threads.
		if got := r.figures(Cell{k, ReceivedBitmap, Direct}).SetupFaults; math.Abs(got-want) > 50 {
			t.Errorf("%s: %.0f faults per 1,000 pages at set-up, want %.0f", k, got, want)
		}
	}
}

func TestRun_BuffersFaultWhereTheyAreNotPopulated(t *testing.T) {
	const none, many = 40, 300
	for _, x := range report(t).Buffers {
		first, later := x.FirstFaults, x.LaterFaults
		switch {
		case x.Buffers == Prefaulted && (first > none || later > none),
			x.Buffers == FirstTouch && (first < many || later > none),
			x.Buffers == NewEachPacket && (first < many || later < many):
			t.Errorf("%s, %s: %.0f faults per 1,000 pages of the first packet, %.0f after it", x.Direction, x.Buffers, first, later)
		}
	}
}

func TestReport_CellWithoutMemoryHasAReasonAndNoFigures(t *testing.T) {
	s := &series{cells: Cells()}
	s.unavailable, s.figures = make([]error, len(s.cells)), make([][]Figures, len(s.cells))
	for i := range s.figures {
		s.figures[i] = []Figures{{}}
	}
	s.withoutHugePages(os.ErrPermission)
	var r Report
	s.report(&r)
	count := 0
	for _, x := range r.Rows {
		if x.Memory != HugeTLB {
			if x.Figures == nil || x.Unavailable != "" {
				t.Errorf("%+v: does not need huge pages, and is not available: %s", x.Cell, x.Unavailable)
			}
			continue
		}
		count++
		if x.Figures != nil || !strings.Contains(x.Unavailable, "permission denied") || !strings.Contains(x.Unavailable, "root") {
			t.Errorf("%+v: figures %v, reason %q", x.Cell, x.Figures, x.Unavailable)
		}
	}
	if count != 4 {
		t.Errorf("%d cells of huge pages, want 4", count)
	}
}

func TestRun_StopsWhenTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, Options{Memory: MinMemory, Runs: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestRun_MemoryThatCannotBeMeasured(t *testing.T) {
	for name, size := range map[string]uint64{"too little": 4096, "no whole pages": MinMemory + 1, "more than there can be": guest.MaxMemory + 4096} {
		if _, err := Run(context.Background(), Options{Memory: size, Runs: 1}); err == nil {
			t.Errorf("%s: %d bytes were measured", name, size)
		}
	}
}

func TestGroups_HoldEachPageOnce(t *testing.T) {
	const pages = 1000 // two groups and a part, and one page over
	seen := map[uint64]bool{}
	for _, g := range groups(pages * pageSize) {
		if len(g.data) > guest.PacketPages(pageSize) || len(g.data) != len(g.zero) || len(g.data) != len(g.later) {
			t.Errorf("%d, %d and %d pages in a group", len(g.data), len(g.zero), len(g.later))
		}
		for _, off := range slices.Concat(g.data, g.zero, g.later) {
			if seen[off] || off%pageSize != 0 || off >= pages*pageSize {
				t.Fatalf("offset %#x", off)
			}
			seen[off] = true
		}
	}
	if len(seen) != 999 {
		t.Errorf("%d pages were dealt out, want 999", len(seen))
	}
}

func TestCheck_FindsAWrongPage(t *testing.T) {
	b, err := newBench(MinMemory)
	if err != nil {
		t.Fatal(err)
	}
	good := make([]byte, MinMemory)
	data := 0
	for _, g := range b.groups {
		for _, off := range g.data {
			copy(good[off:], b.pages.page(data))
			data++
		}
		for _, off := range g.later {
			good[off] = written
		}
	}
	if err := b.pages.check(good, b.groups); err != nil {
		t.Fatal(err)
	}
	g := b.groups[len(b.groups)-1]
	for name, off := range map[string]uint64{"data": g.data[0] + 5, "zero": g.zero[0] + 4095, "write": g.later[0], "around the write": g.later[0] + 9} {
		good[off] ^= 0x40
		if err := b.pages.check(good, b.groups); err == nil {
			t.Errorf("%s: a wrong byte was not noticed", name)
		}
		good[off] ^= 0x40
	}
}

func TestScanning_ClearsWhatIsNotZero(t *testing.T) {
	l, err := guest.NewLayout(pageSize, []guest.Block{{Name: "a", Length: 4 * pageSize}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := guestmem.New(l)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	lane, err := (scanning{m, m}).Lane()
	if err != nil {
		t.Fatal(err)
	}
	mem := m.Bytes(l.Blocks[0])
	// Without a lane, so that the memory's received bitmap has no record of the writes.
	mem[pageSize+100], mem[2*pageSize] = 1, 1
	if err := lane.Zero(l.Blocks[0], []uint64{0, pageSize}); err != nil {
		t.Fatal(err)
	}
	if mem[pageSize+100] != 0 || mem[2*pageSize] != 1 {
		t.Errorf("the page named holds %d, the other %d", mem[pageSize+100], mem[2*pageSize])
	}
	if err := lane.Zero(l.Blocks[0], []uint64{4 * pageSize}); !errors.Is(err, guest.ErrLayout) {
		t.Errorf("a page outside the block: %v", err)
	}
}
