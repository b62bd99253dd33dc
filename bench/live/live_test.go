package main

import (
	"context"
	"encoding/xml"
	"errors"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/bench/chart"
	"github.com/vmferry/vmferry/bench/harness"
)

// The sides of a measurement run this program.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == harness.SideArgument {
		exit(harness.RunSide(os.Stdin, os.Stdout, ownSides))
	}
	os.Exit(m.Run())
}

func tiny() *bench {
	return &bench{runs: 1, memoryMiB: 8, channels: 2, largestMiB: 8}
}

func TestRun_WritesEveryPart(t *testing.T) {
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

func TestMeasure_TakesCellsInTurn(t *testing.T) {
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
	if got := harness.Ratio(all[0], all[1], rounds); got != 0.75 {
		t.Errorf("ratio %g", got)
	}
	boom := errors.New("boom")
	cells[1].measure = func(context.Context) (figures, error) { return figures{}, boom }
	if _, err := (&bench{runs: 1}).measure(t.Context(), "test", cells); !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "b:") {
		t.Errorf("error %v", err)
	}
}

func TestSlope_IsThatOfLeastSquares(t *testing.T) {
	if got := slope([]chart.Point{{X: 1, Y: 5}, {X: 2, Y: 7}, {X: 4, Y: 11}}); math.Abs(got-2) > 1e-9 {
		t.Errorf("slope %g", got)
	}
}

func TestRun_UnknownPart(t *testing.T) {
	b := tiny()
	b.parts = []string{"weather"}
	if err := b.run(t.Context()); err == nil || !strings.Contains(err.Error(), "weather") {
		t.Error(err)
	}
}

func TestSizes_OmitSizesThatDoNotFit(t *testing.T) {
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
