// Save measures saving and restoring one running guest: vmferry beside QEMU's
// own ways, in turn, in one run. It is the first part of "make bench";
// docs/notes/benchmarks.md has figures and says how to read them.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/probe"
	"github.com/vmferry/vmferry/internal/qemutest"
)

func main() {
	var b bench
	flag.StringVar(&b.vmferry, "vmferry", "../bin/vmferry", "program to measure")
	flag.IntVar(&b.runs, "runs", 5, "runs of each way; medians are printed")
	flag.IntVar(&b.guest.MemoryMiB, "memory", 1024, "memory of the guest, MiB")
	flag.IntVar(&b.guest.FillMiB, "fill", 128, "of it filled, MiB")
	flag.StringVar(&b.dir, "dir", "", "where files are written (the temporary directory)")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	vmferry string
	runs    int
	guest   qemutest.Config
	dir     string
	source  *qemutest.VM
}

// sample is one save and one restore.
type sample struct {
	save, paused, restore time.Duration
	size                  int64
}

func (b *bench) run(ctx context.Context) error {
	dir, err := os.MkdirTemp(b.dir, "vf-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.dir = dir
	b.guest.WorkMiB, b.guest.RateMiBps = 8, 2
	if b.source, err = qemutest.Launch(ctx, b.guest); err != nil {
		return err
	}
	defer b.source.Close()
	if err := b.source.WaitReady(ctx); err != nil {
		return err
	}
	ways := b.ways()
	samples := make([][]sample, len(ways))
	for run := range b.runs + 1 {
		for i, w := range ways {
			s, err := b.measure(ctx, w)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			if run > 0 { // the first warms up
				samples[i] = append(samples[i], s)
			}
		}
	}
	return b.print(ways, samples)
}

// measure saves the guest one way, checks that it runs on, and restores it.
func (b *bench) measure(ctx context.Context, w way) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	path := filepath.Join(b.dir, "out")
	defer os.RemoveAll(path)
	began := time.Now()
	if s.paused, err = w.save(ctx, b.source, path); err != nil {
		return s, fmt.Errorf("saving: %w", err)
	}
	s.save = time.Since(began)
	if err := b.source.WaitProgress(ctx, 20*time.Second); err != nil {
		return s, err
	}
	if s.size, err = onDisk(path); err != nil {
		return s, err
	}
	cfg := b.guest
	cfg.Incoming = true
	dst, err := qemutest.Launch(ctx, cfg)
	if err != nil {
		return s, err
	}
	defer dst.Close()
	began = time.Now()
	if err := w.restore(ctx, dst, path); err != nil {
		return s, fmt.Errorf("restoring: %w\n%s", err, dst.Stderr())
	}
	s.restore = time.Since(began)
	return s, dst.WaitProgress(ctx, 20*time.Second)
}

func (b *bench) print(ways []way, samples [][]sample) error {
	save := func(s sample) float64 { return s.save.Seconds() }
	restore := func(s sample) float64 { return s.restore.Seconds() }
	size := func(s sample) float64 { return float64(s.size) / 1e6 }
	pause := func(s sample) float64 { return s.paused.Seconds() * 1000 }
	var rows [][]string
	for i, w := range ways {
		cell := func(format string, of func(sample) float64) string {
			return fmt.Sprintf(format, probe.MedianOf(samples[i], of))
		}
		ratio := func(of func(sample) float64) string {
			return fmt.Sprintf("%.2f", probe.MedianOf(samples[i], of)/probe.MedianOf(samples[0], of))
		}
		rows = append(rows, []string{w.name, cell("%.2f", save), ratio(save), cell("%.0f", pause),
			cell("%.0f", size), ratio(size), cell("%.2f", restore), ratio(restore)})
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "\nguest of %d MiB, medians of %d runs in turn; x is the ratio to mapped-ram\n\n", b.guest.MemoryMiB, b.runs)
	harness.WriteTable(&out, []string{"way", "save s", "x", "paused ms", "MB on disk", "x", "restore s", "x"}, rows)
	_, err := out.WriteTo(os.Stdout)
	return err
}
