package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/guestmem"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == harness.SideArgument {
		exit(harness.RunSide(os.Stdin, os.Stdout, ownSides))
	}
	var b bench
	only := flag.String("only", "", "parts to measure, with commas: "+strings.Join(partNames(), ", ")+"; they are printed, and written with -out only")
	flag.StringVar(&b.out, "out", "", "folder to write to (../docs/notes, without -only)")
	flag.IntVar(&b.runs, "runs", 5, "runs of each cell; medians are reported")
	flag.IntVar(&b.memoryMiB, "memory", 1024, "memory of the machine, MiB, where it does not vary")
	flag.IntVar(&b.channels, "channels", 2, "channels, where they do not vary")
	flag.IntVar(&b.largestMiB, "largest", 8192, "largest memory, MiB, where it varies")
	flag.BoolVar(&b.qemu, "qemu", true, "measure QEMU, too, if scripts/setup demo has prepared it")
	flag.StringVar(&b.profiles, "profiles", "", "folder for CPU profiles of every side that is a Go program")
	flag.Parse()
	if *only != "" {
		b.parts = strings.Split(*only, ",")
	} else if b.out == "" {
		b.out = "../docs/notes"
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	exit(b.run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "live:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is a run of the program.
type bench struct {
	parts      []string // empty: all
	out        string   // "": nothing is written
	runs       int
	memoryMiB  int
	channels   int
	largestMiB int
	qemu       bool
	profiles   string
}

// part is one part of the benchmark.
type part struct {
	name    string
	measure func(*bench, context.Context) (harness.Section, error)
}

var parts = []part{
	{"limit", (*bench).limit},
	{"methods", (*bench).methods},
	{"growth", (*bench).growth},
	{"channels", (*bench).byChannels},
	{"rates", (*bench).byRate},
	{"tracking", (*bench).tracking},
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func (b *bench) run(ctx context.Context) error {
	for _, name := range b.parts {
		if !slices.Contains(partNames(), name) {
			return fmt.Errorf("unknown part %q (want %s)", name, strings.Join(partNames(), ", "))
		}
	}
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return err
		}
	}
	r := report{bench: b}
	for _, p := range parts {
		if len(b.parts) > 0 && !slices.Contains(b.parts, p.name) {
			continue
		}
		s, err := p.measure(b, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		s.Part = p.name
		r.sections = append(r.sections, s)
	}
	os.Stdout.Write(r.markdown())
	if b.out == "" {
		return nil
	}
	return r.write(b.out)
}

// job returns the default job: the method none, and memory of which dataOf is not zero. It
// uses transparent huge pages, as QEMU does.
func (b *bench) job() harness.Job {
	return harness.Job{
		MemoryMiB: b.memoryMiB, DataMiB: dataOf(b.memoryMiB), Channels: b.channels, Method: "none",
		Pages: guestmem.TransparentHuge, Prealloc: guestmem.PreallocNone, Downtime: harness.Downtime, Profiles: b.profiles,
	}
}

// dataOf returns the size of the data pages for a size of memory. A guest of QEMU uses the
// rest.
func dataOf(memoryMiB int) int { return memoryMiB * 5 / 8 }
