// Pause measures how long a running guest is paused by a save, with vmferry and with QEMU
// alone, in turn, in one run. All times are from QEMU's events, which a second monitor
// receives: so each way is measured in the same way. docs/notes/benchmarks.md explains the
// output.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/internal/probe"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/qmp"
)

func main() {
	var b bench
	flag.StringVar(&b.vmferry, "vmferry", "../bin/vmferry", "program to measure")
	flag.StringVar(&b.flags, "flags", "", "further flags of vmferry save, such as --downtime-limit=100ms")
	flag.IntVar(&b.runs, "runs", 5, "runs of each way; medians are printed")
	flag.IntVar(&b.guest.MemoryMiB, "memory", 1024, "memory of the guest, MiB")
	flag.IntVar(&b.guest.FillMiB, "fill", 128, "of it filled, MiB")
	flag.IntVar(&b.guest.WorkMiB, "work", 8, "of it rewritten, MiB")
	flag.IntVar(&b.guest.RateMiBps, "rate", 2, "rewritten a second, MiB")
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
	vmferry, flags, dir string
	runs                int
	guest               qemutest.Config
	source              *qemutest.VM
	observer            *qmp.Client
}

// way is one way to save the guest to path and to let it run on.
type way struct {
	name string
	save func(ctx context.Context, path string) error
}

// sample has the times of one save, as QEMU's events tell them.
type sample struct {
	begin  time.Duration // from the start of the way to the first page
	rounds float64       // with the one during the pause
	stop   time.Duration // from STOP until the migration has completed
	resume time.Duration // from then to RESUME
	qemu   time.Duration // QEMU's own figure of the downtime
}

func (s sample) paused() time.Duration { return s.stop + s.resume }

func (b *bench) run(ctx context.Context) error {
	dir, err := os.MkdirTemp(b.dir, "vf-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.dir = dir
	if b.source, err = qemutest.Launch(ctx, b.guest); err != nil {
		return err
	}
	defer b.source.Close()
	if err := b.source.WaitReady(ctx); err != nil {
		return err
	}
	if b.observer, err = qmp.Dial(ctx, b.source.QMPPath2()); err != nil {
		return err
	}
	defer b.observer.Close()
	ways := []way{{"QEMU file: mapped-ram multifd", b.mappedRAM}, b.vmferryWay("raw"), b.vmferryWay("fast"), b.vmferryWay("dense")}
	samples := make([][]sample, len(ways))
	for run := range b.runs + 1 {
		for i, w := range ways {
			s, err := b.measure(ctx, w)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			if run > 0 { // the first run warms up
				samples[i] = append(samples[i], s)
			}
		}
	}
	b.print(ways, samples)
	return nil
}

// measure saves the guest in one way.
func (b *bench) measure(ctx context.Context, w way) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := b.observer.SetMigrateCapabilities(ctx, map[string]bool{"events": true, "mapped-ram": false, "multifd": false}); err != nil {
		return s, err
	}
	path := filepath.Join(b.dir, "out")
	defer os.RemoveAll(path)
	events := b.observer.Subscribe("MIGRATION", "MIGRATION_PASS", "STOP", "RESUME")
	defer events.Close()
	began := time.Now()
	if err := w.save(ctx, path); err != nil {
		return s, err
	}
	// The answer comes after the events.
	m, err := b.observer.QueryMigrate(ctx)
	if err != nil {
		return s, err
	}
	s.qemu = m.Downtime.Duration()
	if m.RAM != nil {
		s.rounds = float64(m.RAM.DirtySyncCount)
	}
	events.Close()
	if err := s.read(events, began); err != nil {
		return s, err
	}
	return s, b.source.WaitProgress(ctx, 20*time.Second)
}

// read takes the times from the events of a save.
func (s *sample) read(events *qmp.Subscription, began time.Time) error {
	var stopped, completed time.Time
	for e := range events.Events() {
		switch e.Name {
		case "MIGRATION_PASS":
			if s.begin == 0 {
				s.begin = e.Time.Sub(began)
			}
		case "STOP":
			stopped = e.Time
		case "MIGRATION":
			var is struct{ Status string }
			if err := e.Decode(&is); err != nil {
				return err
			}
			if is.Status == qmp.MigrationCompleted {
				completed = e.Time
			}
		case "RESUME":
			s.resume = e.Time.Sub(completed)
		}
	}
	if s.stop = completed.Sub(stopped); stopped.IsZero() || completed.IsZero() || s.resume == 0 {
		return errors.New("the events of the pause are not complete")
	}
	return nil
}

// mappedRAM saves with QEMU alone, and lets the guest run on as soon as QEMU permits it.
func (b *bench) mappedRAM(ctx context.Context, path string) error {
	c, err := qmp.Dial(ctx, b.source.QMPPath())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetMigrateCapabilities(ctx, map[string]bool{"mapped-ram": true, "multifd": true}); err != nil {
		return err
	}
	if err := c.SetMigrateParameters(ctx, qmp.MigrateParameters{MaxBandwidth: new(uint64(1 << 40)), MultifdChannels: new(2)}); err != nil {
		return err
	}
	if err := c.Migrate(ctx, "file:"+path); err != nil {
		return err
	}
	if _, err := harness.AwaitMigration(ctx, c, time.Millisecond, time.Minute); err != nil {
		return err
	}
	for { // QEMU refuses cont for a moment after the migration has completed
		err := c.Cont(ctx)
		var refused *qmp.Error
		if !errors.As(err, &refused) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Millisecond):
		}
	}
}

func (b *bench) vmferryWay(store string) way {
	return way{"vmferry --store " + store, func(ctx context.Context, path string) error {
		args := append([]string{"save", "--qmp", b.source.QMPPath(), "--store", store}, strings.Fields(b.flags)...)
		out, err := exec.CommandContext(ctx, b.vmferry, append(args, path)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}}
}

func (b *bench) print(ways []way, samples [][]sample) {
	ms := func(of func(sample) time.Duration) func(sample) float64 {
		return func(s sample) float64 { return of(s).Seconds() * 1000 }
	}
	columns := []struct {
		title, format string
		of            func(sample) float64
	}{
		{"first page ms", "%.0f", ms(func(s sample) time.Duration { return s.begin })},
		{"rounds", "%.0f", func(s sample) float64 { return s.rounds }},
		{"STOP to completed ms", "%.1f", ms(func(s sample) time.Duration { return s.stop })},
		{"completed to RESUME ms", "%.1f", ms(func(s sample) time.Duration { return s.resume })},
		{"paused ms", "%.1f", ms(sample.paused)},
		{"QEMU's downtime ms", "%.0f", ms(func(s sample) time.Duration { return s.qemu })},
	}
	head := []string{"way"}
	for _, c := range columns {
		head = append(head, c.title)
	}
	var rows [][]string
	for i, w := range ways {
		row := []string{w.name}
		for _, c := range columns {
			row = append(row, fmt.Sprintf(c.format, probe.MedianOf(samples[i], c.of)))
		}
		rows = append(rows, row)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "\nguest of %d MiB that rewrites %d MiB/s, medians of %d runs in turn, from QEMU's events\n\n", b.guest.MemoryMiB, b.guest.RateMiBps, b.runs)
	harness.WriteTable(&out, head, rows)
	out.WriteTo(os.Stdout)
}
