package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// runTicks runs the workload for n ticks and returns its output.
func runTicks(w *workload, n int) string {
	ticks := make(chan time.Time, n)
	for range n {
		ticks <- time.Time{}
	}
	close(ticks)
	var out bytes.Buffer
	run(w, &out, ticks)
	return out.String()
}

func start(t *testing.T, o options) *workload {
	t.Helper()
	w, err := newWorkload(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWorkload_Counts(t *testing.T) {
	w := start(t, options{fillMiB: 2, workMiB: 1, rateMiBps: 5})
	out := runTicks(w, 100)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 10 {
		t.Fatalf("%d lines in a second, want 10:\n%s", len(lines), out)
	}
	// 5 MiB in a second are 1280 pages; 4000 checks are 5 rounds of 768 pages.
	if want := "vmferry-guest: count=10 pages=1280 rounds=5 ok"; lines[9] != want {
		t.Errorf("got  %s\nwant %s", lines[9], want)
	}
	for i := range w.fill {
		if w.seq[i] != 0 {
			t.Fatalf("page %d belongs to the fill and was rewritten", i)
		}
	}
}

func TestWorkload_ChangesPartsAndChecksThem(t *testing.T) {
	w := start(t, options{workMiB: 1, rateMiBps: 5, part: 100})
	out := runTicks(w, 100)
	if want := "count=10 pages=1280 rounds=15 ok\n"; !strings.HasSuffix(out, want) {
		t.Errorf("got %s\nwant it to end in %s", out, want)
	}
}

func TestWorkload_LowRate(t *testing.T) {
	w := start(t, options{workMiB: 1, rateMiBps: 1})
	runTicks(w, 50)
	if w.rewritten != 128 {
		t.Errorf("%d pages rewritten in half a second at 1 MiB/s, want 128", w.rewritten)
	}
}

func TestWorkload_WithoutPages(t *testing.T) {
	if out := runTicks(start(t, options{rateMiBps: 3}), 10); out != "vmferry-guest: count=1 pages=0 rounds=0 ok\n" {
		t.Errorf("got %q", out)
	}
}

func TestWorkload_ReportsCorruptionOnce(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(w *workload)
		want   string
	}{
		"flipped bit in the fill":      {func(w *workload) { w.page(100)[77] ^= 1 }, "CORRUPT page=100 seq=0"},
		"fill page lost":               {func(w *workload) { clear(w.page(100)) }, "CORRUPT page=100 holds page 0"},
		"older state of a work page":   {func(w *workload) { writePage(w.page(300), 300, w.seq[300]); w.seq[300]++ }, "CORRUPT page=300 has seq"},
		"pages of the fill exchanged":  {func(w *workload) { copy(w.page(101), w.page(102)) }, "CORRUPT page=101 holds page 102"},
		"checksum of a page destroyed": {func(w *workload) { w.page(256)[offSum] ^= 1 }, "CORRUPT page=256 seq="},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, options{fillMiB: 1, workMiB: 1, rateMiBps: 4})
			runTicks(w, 20)
			test.damage(w)
			out := runTicks(w, 100)
			if n := strings.Count(out, "CORRUPT"); n != 1 || !strings.Contains(out, test.want) {
				t.Errorf("%d reports, want one with %q:\n%s", n, test.want, out)
			}
			if !strings.HasSuffix(out, " corrupt=1\n") {
				t.Errorf("the last count line does not end in corrupt=1:\n%s", out)
			}
		})
	}
}

func TestWorkload_BoundsReports(t *testing.T) {
	w := start(t, options{fillMiB: 1})
	clear(w.mem)
	out := runTicks(w, 10)
	if n := strings.Count(out, "CORRUPT"); n != maxReports {
		t.Errorf("%d reports, want %d", n, maxReports)
	}
	if !strings.Contains(out, "corrupt=256") {
		t.Errorf("want all 256 pages counted:\n%s", out)
	}
}
