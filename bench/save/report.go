package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/probe"
)

// printHost prints what the figures depend on. vmferry's version has the codec's tier.
func (b *bench) printHost(ctx context.Context) error {
	version, err := exec.CommandContext(ctx, b.vmferry, "version").Output()
	if err != nil {
		return fmt.Errorf("%s version: %w (make build makes the program)", b.vmferry, err)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	_, err = fmt.Printf("processor: %s, %d used\nkernel:    %s\nversion:   %s\n", processor(), runtime.NumCPU(),
		unix.ByteSliceToString(name.Release[:]), strings.ReplaceAll(strings.TrimSpace(string(version)), "\n", ", "))
	return err
}

// processor returns the model of the processor.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // some architectures have no model in it
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); ok && fields[key] == "" {
			fields[key] = strings.TrimSpace(value)
		}
	}
	if fields["model name"] == "" {
		return runtime.GOARCH
	}
	// In a virtual machine the name may say little.
	return fmt.Sprintf("%s (family %s, model %s, stepping %s)", fields["model name"], fields["cpu family"], fields["model"], fields["stepping"])
}

// Figures of a sample.
func save(s sample) float64       { return s.save.Seconds() }
func synced(s sample) float64     { return s.synced.Seconds() }
func paused(s sample) float64     { return s.paused.Seconds() * 1000 }
func size(s sample) float64       { return float64(s.size) / 1e6 }
func restore(s sample) float64    { return s.restore.Seconds() }
func saveCPU(s sample) float64    { return s.saveCPU.Seconds() }
func restoreCPU(s sample) float64 { return s.restoreCPU.Seconds() }

// results are the samples of one machine by the names of the ways.
type results map[string][]sample

// ratio returns the ratio of the medians of two ways. ok is false if one was not measured.
func (r results) ratio(way, to string, of func(sample) float64) (x float64, ok bool) {
	if len(r[way]) == 0 || len(r[to]) == 0 {
		return 0, false
	}
	return probe.MedianOf(r[way], of) / probe.MedianOf(r[to], of), true
}

func writeReport(out *bytes.Buffer, m *machine, runs int, ways []way, samples [][]sample) {
	measured := results{}
	var rows [][]string
	for i, w := range ways {
		measured[w.name] = samples[i]
		cell := func(format string, of func(sample) float64) string {
			return fmt.Sprintf(format, probe.MedianOf(samples[i], of))
		}
		ratio := func(of func(sample) float64) string {
			x, _ := measured.ratio(w.name, "mapped-ram", of)
			return fmt.Sprintf("%.2f", x)
		}
		rows = append(rows, []string{w.title,
			cell("%.2f", save), ratio(save), cell("%.2f", synced), ratio(synced), cell("%.0f", paused), cell("%.0f", size), ratio(size),
			cell("%.2f", restore), ratio(restore), cell("%.2f", saveCPU), cell("%.2f", restoreCPU)})
	}
	fmt.Fprintf(out, "\n## %s\n\nMedians of %d runs in turn; x is the ratio to mapped-ram. \"synced\" includes a sync of the files for all ways. CPU is vmferry's own.\n\n", m.title, runs)
	harness.WriteTable(out, []string{"way", "save s", "x", "synced s", "x", "paused ms", "MB on disk", "x", "restore s", "x", "save CPU s", "restore CPU s"}, rows)
	writeTargets(out, m.name, measured)
}

// target is a bound on a ratio of two ways.
type target struct {
	machine, what, way, to string
	of                     func(sample) float64
	bound, aim             float64 // aim is 0 if there is none
}

var targets = []target{
	{"guest", "save", "raw", "mapped-ram", save, 1.5, 0},
	{"guest", "save, synced", "raw", "mapped-ram", synced, 1.1, 1},
	{"guest", "save", "fast", "mapped-ram", save, 2.5, 0},
	{"guest", "save, synced", "fast", "mapped-ram", synced, 1.5, 1},
	{"guest", "save", "dense", "zstd", save, 1, 0},
	{"guest", "size", "dense", "zstd", size, 1.03, 0},
	{"guest", "restore", "raw", "mapped-ram", restore, 1.5, 1},
	{"guest", "restore", "fast", "mapped-ram", restore, 2.5, 1},
	{"full", "save, synced", "raw", "mapped-ram", synced, 1.1, 1},
	{"full", "save, synced", "fast", "mapped-ram", synced, 1, 0.6},
	{"full", "save", "dense", "zstd", save, 1, 0},
	{"full", "size", "dense", "zstd", size, 1.03, 0},
	{"full", "restore", "raw", "mapped-ram", restore, 1.5, 1},
	{"full", "restore", "fast", "mapped-ram", restore, 2.5, 1},
}

func writeTargets(out *bytes.Buffer, machine string, measured results) {
	var rows [][]string
	for _, t := range targets {
		x, ok := measured.ratio(t.way, t.to, t.of)
		if t.machine != machine || !ok {
			continue
		}
		aim := ""
		if t.aim > 0 {
			aim = fmt.Sprintf("%.2f %s", t.aim, harness.Verdict(x <= t.aim))
		}
		rows = append(rows, []string{t.what + ": " + t.way + " to " + t.to, fmt.Sprintf("%.2f", x), fmt.Sprintf("%.2f", t.bound), harness.Verdict(x <= t.bound), aim})
	}
	if len(rows) > 0 {
		out.WriteString("\n")
		harness.WriteTable(out, []string{"target", "x", "at most", "", "aim"}, rows)
	}
}
