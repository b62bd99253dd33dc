package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/vmferry/vmferry/bench/harness"
	"github.com/vmferry/vmferry/dirty"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/internal/probe"
)

// shares are the shares of dirty pages at a collection, in thousandths.
var shares = []int{0, 10, 100, 1000}

// tracking is the side that measures package dirty.
const tracking = "tracking"

var ownSides = map[string]func(harness.Job) (harness.Result, error){tracking: track}

// untracked is the mode without a dirty log.
const untracked = "untracked"

var modes = []string{untracked, string(dirty.Async), string(dirty.Sync), machine.Marks}

func key(mode, what string) string { return mode + " " + what }

func collectKey(thousandths int) string { return fmt.Sprintf("collect %d", thousandths) }

// track runs the side that measures package dirty.
func track(j harness.Job) (t harness.Result, err error) {
	j.DataMiB = j.MemoryMiB // all pages are present
	mem, err := harness.NewMemory(j)
	if err != nil {
		return t, err
	}
	defer mem.Close()
	k := tracker{ram: mem.Bytes(mem.Layout().Blocks[0]), took: map[string]time.Duration{}}
	for _, n := range rand.New(rand.NewPCG(3, 4)).Perm(len(k.ram) / harness.PageSize) {
		k.random = append(k.random, uint32(n))
	}
	k.writers(untracked, nil, nil)
	for _, mode := range modes[1:] {
		err := k.tracked(mem, mode)
		if errors.Is(err, dirty.ErrUnsupported) {
			continue
		}
		if err != nil {
			return t, fmt.Errorf("%s: %w", mode, err)
		}
	}
	t.Took = k.took
	return t, nil
}

// tracked measures a log of one mode.
func (k *tracker) tracked(mem *guestmem.Memory, mode string) error {
	if mode != machine.Marks {
		l, err := dirty.New(mem, dirty.Options{Mode: dirty.Mode(mode)})
		if err != nil {
			return err
		}
		return k.mode(mem, mode, l, nil)
	}
	l, err := dirty.NewMarks(mem)
	if err != nil {
		return err
	}
	block := mem.Layout().Blocks[0]
	return k.mode(mem, mode, l, func(at uint64) { l.Mark(block, at, 8) })
}

type tracker struct {
	ram    []byte
	random []uint32 // all pages, in random order
	took   map[string]time.Duration
}

// time records the time that do takes.
func (k *tracker) time(mode, what string, do func()) {
	began := time.Now()
	do()
	k.took[key(mode, what)] = time.Since(began)
}

// writers measures writing a word to every page, in order and at random. It calls collect,
// if not nil, after each pass, so that every page is clean, and mark, if not nil, after each
// write.
func (k *tracker) writers(mode string, collect func(), mark func(at uint64)) {
	k.time(mode, "sequential", func() {
		for at := 8; at < len(k.ram); at += harness.PageSize {
			binary.LittleEndian.PutUint64(k.ram[at:], uint64(at))
			if mark != nil {
				mark(uint64(at))
			}
		}
	})
	if collect != nil {
		collect()
	}
	k.time(mode, "random", func() {
		for _, n := range k.random {
			at := uint64(n)*harness.PageSize + 8
			binary.LittleEndian.PutUint64(k.ram[at:], uint64(n))
			if mark != nil {
				mark(at)
			}
		}
	})
	if collect != nil {
		collect()
	}
}

func (k *tracker) mode(mem *guestmem.Memory, mode string, l guest.DirtyLog, mark func(at uint64)) (err error) {
	k.time(mode, "start", func() { err = l.Start() })
	if err != nil {
		return err
	}
	defer func() {
		k.time(mode, "stop", func() { err = errors.Join(err, l.Stop()) })
	}()
	b := guest.NewBitmap(mem.Layout())
	collect := func() {
		b.Clear()
		err = errors.Join(err, l.Collect(b))
	}
	k.writers(mode, collect, mark)
	collect() // a page that was written during the last collection is found twice
	for _, share := range shares {
		want := len(k.random) * share / 1000
		for _, n := range k.random[:want] {
			k.ram[int(n)*harness.PageSize]++
			if mark != nil {
				mark(uint64(n) * harness.PageSize)
			}
		}
		k.time(mode, collectKey(share), collect)
		// The mode Sync may find a page twice.
		if got := b.Count(); err == nil && got != uint64(want) && mode != string(dirty.Sync) {
			err = fmt.Errorf("found %d dirty pages, want %d", got, want)
		}
	}
	return err
}

// tracking is the part that measures the cost of dirty tracking.
func (b *bench) tracking(ctx context.Context) (harness.Section, error) {
	var all []map[string]time.Duration
	for run := range b.runs {
		fmt.Fprintf(os.Stderr, "tracking: run %d of %d\n", run+1, b.runs)
		j := b.job()
		j.Side, j.Pages = tracking, guestmem.SmallPages
		t, err := harness.RunAlone(ctx, j)
		if err != nil {
			return harness.Section{}, err
		}
		all = append(all, t.Took)
	}
	gib := float64(b.memoryMiB) / 1024
	pages := float64(b.memoryMiB<<20) / harness.PageSize
	s := harness.Section{
		Title: "What dirty tracking costs",
		Text: []string{fmt.Sprintf("Package dirty over %d MiB that are all present, in pages of 4 KiB, with no other load. The writer writes one word to each page once; each page is clean before. "+
			"×\u00a0is the ratio to writing untracked in the same run. In the mode sync a writer waits for another thread at each first write of a page. Marks are set by the writer after each write.", b.memoryMiB)},
		Head: []string{"mode", "Start ms/GiB", "Stop ms/GiB"},
	}
	for _, share := range shares {
		s.Head = append(s.Head, fmt.Sprintf("Collect ms/GiB, %g %% dirty", float64(share)/10))
	}
	s.Head = append(s.Head, "write in order ns/page", "×", "at random ns/page", "×")
	for _, mode := range modes {
		get := func(what string, of func(took map[string]time.Duration, d float64) float64) float64 {
			var v []float64
			for _, took := range all {
				if d, ok := took[key(mode, what)]; ok {
					v = append(v, of(took, float64(d)))
				}
			}
			if len(v) == 0 {
				return -1
			}
			return probe.Median(v)
		}
		perGiB := func(_ map[string]time.Duration, d float64) float64 { return d / 1e6 / gib }
		row := []string{mode, known(f2, get("start", perGiB)), known(f2, get("stop", perGiB))}
		for _, share := range shares {
			row = append(row, known(f2, get(collectKey(share), perGiB)))
		}
		for _, order := range []string{"sequential", "random"} {
			row = append(row, known(f0, get(order, func(_ map[string]time.Duration, d float64) float64 { return d / pages })),
				known(f1, get(order, func(took map[string]time.Duration, d float64) float64 {
					return d / float64(took[key(untracked, order)])
				})))
		}
		s.Rows = append(s.Rows, row)
	}
	return s, nil
}

// known formats a value, or a dash if the value is not known.
func known(write func(float64) string, v float64) string {
	if v < 0 {
		return "–"
	}
	return write(v)
}
