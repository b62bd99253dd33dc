// Save measures saving and restoring a machine with vmferry and with QEMU alone, in turn, in
// one run: a guest that runs, and a paused machine whose memory is full. It is the first
// part of "make bench". docs/guide/benchmarks.md has its flags, docs/notes/benchmarks.md
// what was measured.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	b := bench{}
	flag.StringVar(&b.vmferry, "vmferry", "../bin/vmferry", "program to measure")
	flag.IntVar(&b.runs, "runs", 5, "runs of each way; medians are printed")
	machines := flag.String("machines", "guest,full", "machines to measure: guest, full")
	ways := flag.String("ways", "", "ways to measure besides mapped-ram (all): zstd, file, fast, dense, store-zstd, raw; \"none\" for mapped-ram alone")
	flag.IntVar(&b.guestMiB, "memory", 1024, "memory of the guest, MiB")
	flag.IntVar(&b.fillMiB, "fill", 128, "of it filled, MiB")
	flag.IntVar(&b.fullMiB, "full", 2048, "memory of the full machine, MiB")
	flag.StringVar(&b.pages, "pages", "", "file of 4 KiB pages for the full machine, .zst if compressed (generated pages)")
	flag.StringVar(&b.dir, "dir", "", "where files are written (the temporary directory)")
	flag.StringVar(&b.memoryDir, "memory-dir", "/dev/shm", "where the memory of the full machine is: a file system in memory with space for two such machines")
	quick := flag.Bool("quick", false, "fewer runs, and a full machine of 512 MiB")
	flag.Parse()
	if *quick {
		b.runs, b.fullMiB = min(b.runs, 2), min(b.fullMiB, 512)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := b.run(ctx, list(*machines), list(*ways)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// list splits a list of names.
func list(names string) []string {
	return strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
}

type bench struct {
	vmferry, dir, memoryDir, pages string
	runs                           int
	guestMiB, fillMiB, fullMiB     int
}

// sample is one save and one restore.
type sample struct {
	// save is as the way does it. synced includes the flush of the files to the disk.
	save, synced, paused, restore time.Duration
	// saveCPU and restoreCPU are the processor time of vmferry's process.
	saveCPU, restoreCPU time.Duration
	size                int64
}

func (b *bench) run(ctx context.Context, machines, names []string) error {
	ways, err := b.ways(names)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.dir, "vf-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.dir = dir
	for _, name := range machines {
		if !slices.Contains([]string{"guest", "full"}, name) {
			return fmt.Errorf("unknown machine %q (want guest or full)", name)
		}
	}
	if err := b.printHost(ctx); err != nil {
		return err
	}
	for _, name := range machines {
		if err := b.runMachine(ctx, name, ways); err != nil {
			return fmt.Errorf("%s machine: %w", name, err)
		}
	}
	return nil
}

// runMachine measures all ways with one machine.
func (b *bench) runMachine(ctx context.Context, name string, ways []way) (err error) {
	start := b.startGuest
	if name == "full" {
		start = b.startFull
	}
	m, err := start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	samples := make([][]sample, len(ways))
	for run := range b.runs + 1 {
		for i, w := range ways {
			s, err := b.measure(ctx, m, w)
			if err != nil {
				return fmt.Errorf("%s: %w", w.title, err)
			}
			if run > 0 { // the first run warms up
				samples[i] = append(samples[i], s)
			}
		}
	}
	var out bytes.Buffer
	writeReport(&out, m, b.runs, ways, samples)
	_, err = out.WriteTo(os.Stdout)
	return err
}

// measure saves the machine in one way, checks the machine, and restores it.
func (b *bench) measure(ctx context.Context, m *machine, w way) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	path := filepath.Join(b.dir, "out")
	defer os.RemoveAll(path)
	if err := m.renewSource(ctx); err != nil {
		return s, err
	}
	began := time.Now()
	cost, err := w.save(ctx, m, path)
	if err != nil {
		return s, fmt.Errorf("saving: %w", err)
	}
	s.save, s.paused, s.saveCPU = time.Since(began), cost.paused, cost.cpu
	if err := flush(path); err != nil {
		return s, err
	}
	s.synced = time.Since(began)
	if s.size, err = onDisk(path); err != nil {
		return s, err
	}
	if err := m.check(ctx, m.source); err != nil {
		return s, err
	}
	dst, err := m.destination(ctx)
	if err != nil {
		return s, err
	}
	defer dst.Close()
	began = time.Now()
	if cost, err = w.restore(ctx, m, dst, path); err != nil {
		return s, fmt.Errorf("restoring: %w\n%s", err, dst.Stderr())
	}
	s.restore, s.restoreCPU = time.Since(began), cost.cpu
	return s, m.check(ctx, dst)
}
