package main

import (
	"bytes"
	"encoding/xml"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
)

func TestChooseWays_WholeQuickAndNamed(t *testing.T) {
	names := func(given string, quick bool) string {
		ways, err := chooseWays(given, quick)
		if err != nil {
			t.Fatal(err)
		}
		return list(ways, func(w way) string { return w.name })
	}
	if got, want := names("", false), "QEMU none,QEMU zstd,QEMU TLS,relay auto,relay auto TLS,relay auto no-cache,relay qpl,relay zstd,relay none"; got != want {
		t.Errorf("whole run: %s, want %s", got, want)
	}
	if got, want := names("", true), "QEMU none,QEMU zstd,relay auto,relay auto TLS,relay auto no-cache"; got != want {
		t.Errorf("quick run: %s, want %s", got, want)
	}
	if got, want := names("QEMU zlib,relay qpl", true), "QEMU zlib,relay qpl"; got != want {
		t.Errorf("named: %s, want %s", got, want)
	}
	if _, err := chooseWays("relay by post", false); err == nil || !strings.Contains(err.Error(), firstRelay) {
		t.Errorf("error %v, want the known ways", err)
	}
	if links, err := chooseLinks("", true); err != nil || len(links) != 3 {
		t.Errorf("quick run: links %v, error %v", links, err)
	}
	if links, err := chooseLinks("", false); err != nil || len(links) != 4 {
		t.Errorf("whole run: links %v, error %v", links, err)
	}
	if _, err := chooseLinks("9600 baud", false); err == nil || !strings.Contains(err.Error(), middle) {
		t.Errorf("error %v, want the known links", err)
	}
}

// run is a migration with a total time and bytes on the link.
func run(total time.Duration, megabytes uint64) figures {
	return figures{total: total, sent: megabytes * 1e6, downtime: 40 * time.Millisecond, rounds: 3,
		process: [2]time.Duration{2 * time.Second, time.Second}, guest: [2]time.Duration{time.Second, 0}}
}

// made returns a report on made-up figures.
func made() *report {
	b := &bench{runs: 3, slowRuns: 2, links: allLinks, ways: allWays[:4]}
	lost := figures{diverged: true}
	return &report{bench: b, took: time.Minute, results: results{
		slowest: {
			baseline:   {run(20*time.Second, 240), run(40*time.Second, 260)},
			qemuZstd:   {run(9*time.Second, 100), run(9*time.Second, 200)},
			"QEMU TLS": {lost, lost},
			firstRelay: {run(8*time.Second, 90), lost},
		},
		busiest: {
			qemuZstd:   {run(20*time.Second, 200), run(20*time.Second, 200)},
			firstRelay: {run(10*time.Second, 100), run(10*time.Second, 100)},
		},
		middle: {
			baseline:   {run(2*time.Second, 240), run(4*time.Second, 240), run(2*time.Second, 240)},
			qemuZstd:   {run(time.Second, 100), run(time.Second, 100), run(time.Second, 100)},
			"QEMU TLS": {run(2*time.Second, 240), lost, run(2*time.Second, 240)},
			firstRelay: {run(time.Second, 100), run(time.Second, 100), run(800*time.Millisecond, 100)},
		},
		unlimited: {},
	}}
}

func TestReport_RowsAndAims(t *testing.T) {
	r := made()
	text := string(r.markdown(r.sections()))
	cells := func(row string) string { return strings.Join(strings.Fields(row), " ") }
	for _, want := range []string{
		"| QEMU none | 30.00 | 1.00 | 40 | 3 | 250.0 | 1.00 | 3.00 | 2.00 | 1.00 | 1.00 | 1.00 | 0.00 | 0 | 0 of 2 |",
		// The ratios are of the run in which neither was given up.
		"| relay auto | 8.00 | 0.40 | 40 | 3 | 90.0 | 0.38 | 3.00 | 2.00 | 1.00 | 1.00 | 1.00 | 0.00 | 0 | 1 of 2 |",
		"| QEMU TLS | – | – | – | – | – | – | – | – | – | – | – | – | – | 2 of 2 |",
		"- relay auto takes 0.90 of the bytes on the link of QEMU zstd (aim: at most 0.80, missed).",
		"- relay auto takes 0.50 of the bytes on the link of QEMU zstd (aim: at most 0.80, reached).",
		"- relay auto takes 0.40 of the total time of QEMU none (aim: at most 0.50, reached).",
		"- relay auto takes 1.00 of the total time of QEMU zstd (aim: at most 1.00, reached).",
		"| relay auto | 0.40 × | 0.50 × | 0.40 × | – |",
	} {
		if !strings.Contains(cells(text), want) {
			t.Errorf("no line %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "of QEMU none (aim: at most 1.25") {
		t.Errorf("a figure that was not measured:\n%s", text)
	}
}

func TestReport_ChartsAreWrittenBesideIt(t *testing.T) {
	r, dir := made(), t.TempDir()
	sections := r.sections()
	if err := harness.WriteDocument(dir, "migrate-results.md", r.markdown(sections), sections); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"migrate-time.svg", "migrate-bytes.svg", "migrate-cpu.svg"} {
		svg, err := os.ReadFile(dir + "/" + name)
		if err == nil {
			err = xml.Unmarshal(svg, new(struct{ XMLName xml.Name }))
		}
		if err != nil || !bytes.Contains(svg, []byte(firstRelay)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCounters_Since(t *testing.T) {
	at := time.Now()
	before := counters{sent: 10, written: 100, writtenAt: at, process: [2]time.Duration{5, 6}, guest: [2]time.Duration{1, 0}, relay: [2]time.Duration{7, 8}}
	after := counters{sent: 110, written: 700, writtenAt: at.Add(2 * time.Second), process: [2]time.Duration{15, 26}, guest: [2]time.Duration{4, 0}, relay: [2]time.Duration{9, 9}}
	f := after.since(before)
	if f.sent != 100 || f.process != [2]time.Duration{10, 20} || f.guest != [2]time.Duration{3, 0} || f.relay != [2]time.Duration{2, 1} || f.writes != 300 {
		t.Errorf("%+v", f)
	}
	if f := before.since(before); f.writes != 0 {
		t.Errorf("%g pages a second in no time", f.writes)
	}
}

func TestListens_FindsAListenerWithoutConnecting(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	if !listens(os.Getpid(), port) {
		t.Errorf("the listener on port %d was not found", port)
	}
	ln.Close()
	if listens(os.Getpid(), port) {
		t.Errorf("there is a listener on port %d after it was closed", port)
	}
}
