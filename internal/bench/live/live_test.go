package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/chart"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/transport"
)

// The sides of a measurement are this program.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == sideArgument {
		exit(runSide(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

func tiny() *bench {
	return &bench{runs: 1, memoryMiB: 8, channels: 2, largestMiB: 8}
}

func TestEveryPartIsWritten(t *testing.T) {
	b := tiny()
	b.out = t.TempDir()
	if err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(b.out, "live-results.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range partNames() {
		if !strings.Contains(string(text), "-only "+p+" -runs 1 -memory 8 -largest 8`") {
			t.Errorf("no command for %s", p)
		}
	}
	for row, times := range map[string]int{
		"bare copy, small pages, preallocated": 1, "vmferry none, transparent huge pages": 1,
		"vmferry qpl, dense": 2, "vmferry zlib": 4, "vmferry none, marks": 5, "QEMU none": 0,
		"untracked": 1, "async": 1, "marks": 1, "0.0078125 ": 4, "8 ": 2, "64000": 2,
	} {
		if n := strings.Count(string(text), "\n| "+row); n != times {
			t.Errorf("%d rows begin with %q, want %d", n, row, times)
		}
	}
	if !strings.Contains(string(text), "QEMU's rows are left out") {
		t.Error("nothing says that QEMU's rows are left out")
	}
	if strings.Contains(string(text), "NaN") || strings.Contains(string(text), "Inf") {
		t.Error("there is a ratio of nothing")
	}
	charts := regexp.MustCompile(`\]\((live-[a-z-]+\.svg)\)`).FindAllSubmatch(text, -1)
	if len(charts) < 6 {
		t.Errorf("%d charts", len(charts))
	}
	for _, c := range charts {
		svg, err := os.ReadFile(filepath.Join(b.out, string(c[1])))
		if err == nil {
			err = xml.Unmarshal(svg, new(struct{ XMLName xml.Name }))
		}
		if err != nil {
			t.Errorf("%s: %v", c[1], err)
		}
	}
}

func TestAMigrationIsMeasured(t *testing.T) {
	j := tiny().job()
	j.WorkMiB, j.Rate, j.Method = 4, 1000, "qpl"
	from, to, err := pair(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	o := from.Outcome
	if !o.Verified || o.Downtime <= 0 || o.Downtime > o.Total || from.Usage.CPU <= 0 || to.Usage.CPU <= 0 {
		t.Errorf("%+v, %v, %v", o, from.Usage, to.Usage)
	}
	if sent, want := o.Rounds[0].Raw+o.Rounds[0].Compressed, uint64(j.DataMiB<<20/pageSize); sent < want || sent > want+1024 {
		t.Errorf("the first round had %d pages with data, want %d or a few more", sent, want)
	}
	if from.Counters[0] < 100 {
		t.Errorf("%d writes", from.Counters[0])
	}
}

// A copy that is not whole may not count.
func TestWhatArrivesIsCompared(t *testing.T) {
	ok := told{Digest: 1, Counters: []uint64{2}, Outcome: &live.Outcome{Verified: true}}
	if err := compare(ok, ok); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*told){
		"memory":   func(t *told) { t.Digest = 2 },
		"counters": func(t *told) { t.Counters = []uint64{3} },
		"handover": func(t *told) { t.Outcome = &live.Outcome{} },
	} {
		from := ok
		change(&from)
		if err := compare(from, ok); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASideThatFailsIsAnError(t *testing.T) {
	j := tiny().job()
	j.Method = "no such method"
	if _, _, err := pair(t.Context(), j); err == nil {
		t.Error("no error")
	}
}

func TestCellsAreMeasuredInTurn(t *testing.T) {
	var order []string
	var cells []cell
	for _, name := range []string{"a", "b"} {
		cells = append(cells, cell{name, func(context.Context) (figures, error) {
			order = append(order, name)
			return figures{rounds: len(order)}, nil
		}})
	}
	all, err := (&bench{runs: 3}).measure(t.Context(), "test", cells)
	if got := strings.Join(order, ""); got != "ababab" || err != nil || len(all[0]) != 3 {
		t.Errorf("%s, %v, %v", got, all, err)
	}
	// 1/2, 3/4, 5/6: the ratio is taken within each run.
	if got := ratio(all[0], all[1], rounds); got != 0.75 {
		t.Errorf("ratio %g", got)
	}
	boom := errors.New("boom")
	cells[1].measure = func(context.Context) (figures, error) { return figures{}, boom }
	if _, err := (&bench{runs: 1}).measure(t.Context(), "test", cells); !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "b:") {
		t.Errorf("error %v", err)
	}
}

func TestMiddleAndSlope(t *testing.T) {
	if got := middle([]float64{9, 1, 3}); got != 3 {
		t.Errorf("middle of three: %g", got)
	}
	if got := middle([]float64{4, 1, 2, 9}); got != 3 {
		t.Errorf("middle of four: %g", got)
	}
	if got := slope([]chart.Point{{X: 1, Y: 5}, {X: 2, Y: 7}, {X: 4, Y: 11}}); math.Abs(got-2) > 1e-9 {
		t.Errorf("slope %g", got)
	}
}

func TestFillIsOfTheShareAskedFor(t *testing.T) {
	for _, pages := range []guestmem.PageKind{guestmem.SmallPages, guestmem.TransparentHuge} {
		m, err := newMemory(job{MemoryMiB: 16, DataMiB: 10, Pages: pages})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		data, ram := 0, m.Bytes(m.Layout().Blocks[0])
		seen := map[string]bool{}
		for at := 0; at < len(ram); at += pageSize {
			if page := string(ram[at : at+pageSize]); page != string(make([]byte, pageSize)) {
				data++
				seen[page] = true
			}
		}
		if data != 10<<20/pageSize || len(seen) != data {
			t.Errorf("%d pages with data, %d of them different", data, len(seen))
		}
	}
}

func TestUsageOfAProcessIsThatOfGetrusage(t *testing.T) {
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
	}
	before := usageNow()
	got, err := usageOf(os.Getpid())
	after := usageNow()
	if err != nil {
		t.Fatal(err)
	}
	const slack = 10 * time.Millisecond // getrusage is scaled
	if got.CPU < before.CPU-slack || got.CPU > after.CPU+slack || got.Faults < before.Faults || got.Faults > after.Faults {
		t.Errorf("%v is not between %v and %v", got, before, after)
	}
	if _, err := usageOf(1 << 22); err == nil {
		t.Error("no error for a process that is not there")
	}
}

func TestUnknownPartsAreErrors(t *testing.T) {
	b := tiny()
	b.parts = []string{"weather"}
	if err := b.run(t.Context()); err == nil || !strings.Contains(err.Error(), "weather") {
		t.Error(err)
	}
}

func TestSizesThatDoNotFitAreLeftOut(t *testing.T) {
	b := tiny()
	b.largestMiB = 1 << 30
	sizes, left := b.sizes()
	if last := sizes[len(sizes)-1]; last >= 32 && left == "" {
		t.Errorf("%v", sizes)
	}
	if left != "" && !strings.Contains(left, strconv.FormatFloat(2*sizes[len(sizes)-1], 'g', -1, 64)) {
		t.Errorf("after %v: %s", sizes, left)
	}
}

func TestUnknownSidesAreErrors(t *testing.T) {
	if err := runSide(strings.NewReader(`{"Side":"neither"}`), io.Discard); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Error(err)
	}
	if err := runSide(strings.NewReader(fmt.Sprintf(`{"Side":%q,"MemoryMiB":1,"Channels":1,"Method":"none"} "nowhere"`, source)), io.Discard); !errors.Is(err, transport.ErrAddress) {
		t.Error(err)
	}
}
