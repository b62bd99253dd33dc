package snapshot_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
)

// The machine of the memory test: 64 GiB with 300,000 pages that are not zero,
// spread at random, so that every part of every table is touched.
const (
	largeGuest = 64 << 30
	largePages = 300_000
	// largeBound is what saving may take: 64 MiB + 0.5 % of the guest.
	largeBound = 64<<20 + largeGuest/200
	// sparseBound is 64 MiB and 16 times what such a source sends: 9 bytes a
	// page, in 2^18 chunks.
	sparseBound = 64<<20 + 16*9<<18
	childEnv    = "VMFERRY_TEST_SAVE_LARGE"
)

// memoryShapes are what is saved, each in a process of its own, so that its
// memory is that of the saving alone.
var memoryShapes = map[string]struct {
	save  func(t *testing.T, path string)
	bound int
}{
	"large":         {saveLarge, largeBound},
	"a page a 2^16": {saveSparse, sparseBound},
	"only a layout": {saveLayout, 32 << 20},
}

func TestWriter_LargeMachineTakesLittleMemory(t *testing.T) {
	if shape, path, ok := strings.Cut(os.Getenv(childEnv), ":"); ok {
		memoryShapes[shape].save(t, path)
		return
	}
	for name, shape := range memoryShapes {
		t.Run(name, func(t *testing.T) { testMemory(t, name, shape.bound) })
	}
}

func testMemory(t *testing.T, name string, bound int) {
	path := filepath.Join(t.TempDir(), "large")
	cmd := exec.Command(os.Args[0], "-test.run=^TestWriter_LargeMachineTakesLittleMemory$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"="+name+":"+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found := regexp.MustCompile(`go (\d+) resident (\d+) pages (\d+)`).FindSubmatch(out)
	if found == nil {
		t.Fatalf("the child says nothing of its memory:\n%s", out)
	}
	number := func(i int) int {
		n, err := strconv.Atoi(string(found[i]))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	goes, resident, pages := number(1), number(2), number(3)
	t.Logf("saving %d pages took at most %d MiB, of them %d MiB are Go's; the bound is %d MiB", pages, resident>>20, goes>>20, bound>>20)
	if goes > bound {
		t.Errorf("Go's memory reached %d MiB, more than %d", goes>>20, bound>>20)
	}
	if !raceEnabled && resident > bound {
		t.Errorf("the process reached %d MiB, more than %d", resident>>20, bound>>20)
	}
}

// watched saves a machine of the layout and prints the most memory it took.
func watched(t *testing.T, path string, length uint64, fill func(w *snapshot.Writer, l *guest.Layout)) {
	dir, err := store.CreateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	l := newLayout(t, 4096, guest.Block{Name: "pc.ram", Length: length})
	stop, peak := make(chan struct{}), make(chan uint64)
	go watchGo(stop, peak)
	w := create(t, dir, l, snapshot.Options{})
	fill(w, l)
	m := finish(t, w, l)
	close(stop)
	fmt.Printf("go %d resident %d pages %d\n", <-peak, highWater(t), m.Totals.Pages)
}

// saveSparse is what a source sends that wants to cost memory: a tiny page in
// each chunk of 64 TiB.
func saveSparse(t *testing.T, path string) {
	watched(t, path, 64<<40, func(w *snapshot.Writer, l *guest.Layout) {
		lane := openLane(t, w).(guest.DeflatedLane)
		page := make([]byte, 4096)
		page[0] = 1
		z := rawDeflate(t, page)
		for off := uint64(0); off < l.Blocks[0].Length; off += chunkPages * 4096 {
			if err := lane.PutDeflated(l.Blocks[0], []uint64{off + off>>18&^4095}, []uint32{uint32(len(z))}, z); err != nil {
				t.Error(err)
				break
			}
		}
		if err := lane.Close(); err != nil {
			t.Error(err)
		}
	})
}

// saveLayout is a machine of the largest size of which no page comes.
func saveLayout(t *testing.T, path string) {
	watched(t, path, guest.MaxMemory, func(*snapshot.Writer, *guest.Layout) {})
}

// saveLarge saves and prints the most memory it took.
func saveLarge(t *testing.T, path string) {
	dir, err := store.CreateDir(path)
	if err != nil {
		t.Fatal(err)
	}
	l := newLayout(t, 4096, guest.Block{Name: "pc.ram", Length: largeGuest})
	w := create(t, dir, l, snapshot.Options{})
	stop := make(chan struct{})
	peak := make(chan uint64)
	go watchGo(stop, peak)

	// Zero pages of each half before and after the other's data.
	const lanes = 2
	var wg sync.WaitGroup
	kept := make([]uint64, lanes)
	for i := range uint64(lanes) {
		wg.Go(func() {
			lane := openLane(t, w).(guest.DeflatedLane)
			half := l.Pages(l.Blocks[0]) / lanes
			zeroHalf(t, lane, l, i*half, half/2)
			kept[i] = spreadHalf(t, lane, l, i*half, half, largePages/lanes)
			zeroHalf(t, lane, l, i*half+half-1000, 1000)
			if err := lane.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m := finish(t, w, l)
	close(stop)
	// The last thousand pages of each half were made zero again.
	if sum := kept[0] + kept[1]; m.Totals.Pages > sum || m.Totals.Pages < sum-sum/50 {
		t.Errorf("%d pages were kept of %d", m.Totals.Pages, sum)
	}
	if limit := 16*int64(m.Totals.Pages) + 100_000; m.Totals.IndexBytes > limit {
		t.Errorf("the index takes %d bytes for %d pages", m.Totals.IndexBytes, m.Totals.Pages)
	}
	fmt.Printf("go %d resident %d pages %d\n", <-peak, highWater(t), m.Totals.Pages)
}

func zeroHalf(t *testing.T, lane guest.Lane, l *guest.Layout, first, n uint64) {
	offsets := make([]uint64, 128)
	for page := first; page < first+n; page += 128 {
		offsets = offsets[:0]
		for p := page; p < min(page+128, first+n); p++ {
			offsets = append(offsets, p*4096)
		}
		if err := lane.Zero(l.Blocks[0], offsets); err != nil {
			t.Error(err)
			return
		}
	}
}

// spreadHalf puts n different pages at random places, and returns how many.
func spreadHalf(t *testing.T, lane guest.DeflatedLane, l *guest.Layout, first, pages, n uint64) uint64 {
	r := rand.New(rand.NewPCG(first, 64))
	page := make([]byte, 4096)
	page[100] = 7
	z := rawDeflate(t, page)
	lengths := slices.Repeat([]uint32{uint32(len(z))}, 128)
	data := slices.Repeat(z, 128)
	seen := map[uint64]bool{}
	for uint64(len(seen)) < n {
		var offsets []uint64
		for len(offsets) < 128 {
			p := first + r.Uint64N(pages)
			if !seen[p] {
				seen[p] = true
				offsets = append(offsets, p*4096)
			}
		}
		if err := lane.PutDeflated(l.Blocks[0], offsets, lengths, data); err != nil {
			t.Error(err)
			break
		}
	}
	return uint64(len(seen))
}

// watchGo looks at what Go holds of the system's memory.
func watchGo(stop <-chan struct{}, peak chan<- uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	var most uint64
	for {
		metrics.Read(samples)
		most = max(most, samples[0].Value.Uint64()-samples[1].Value.Uint64())
		select {
		case <-stop:
			peak <- most
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// highWater is the most memory that the process ever had resident.
func highWater(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatal("/proc/self/status has no VmHWM")
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
