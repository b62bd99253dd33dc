package main

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/probe/codec"
)

const pageSize = 4096

// stride is the size of the buffer for a packed page: some libraries need extra space.
const stride = pageSize + 64

// piecePages is the number of pages whose time is measured at once: long compared with the
// resolution of the clock, short compared with the time between two disturbances.
const piecePages = 256

// batch is a number of pages and their packed form. clib.h depends on this layout.
type batch struct {
	pages  []byte
	packed []byte   // page i at i*stride
	sizes  []uint32 // pageSize where page i is raw
}

// part returns the pages from from to to-1.
func (b *batch) part(from, to int) *batch {
	return &batch{b.pages[from*pageSize : to*pageSize], b.packed[from*stride : to*stride], b.sizes[from:to]}
}

// peer is a codec. pack fills packed and sizes. unpack fills pages and returns the number of
// pages that failed.
type peer struct {
	name   string
	tier   string // of the page codec, "" for others
	pack   func(*batch)
	unpack func(*batch) int
}

// cpuTime returns the CPU time of this thread, without the time of other threads and
// processes.
func cpuTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err) // every Linux has this clock
	}
	return time.Duration(ts.Nano())
}

// best keeps the fastest time of each piece.
type best []time.Duration

func (b best) time(piece int, f func()) {
	start := cpuTime()
	f()
	if d := cpuTime() - start; b[piece] == 0 || d < b[piece] {
		b[piece] = d
	}
}

// mbps returns the speed over all n bytes, in 10^6 a second.
func (b best) mbps(n int) float64 {
	var sum time.Duration
	for _, d := range b {
		sum += d
	}
	return float64(n) / 1e6 / sum.Seconds()
}

// measure measures every peer on pages, passes times.
func measure(ctx context.Context, pages []byte, peers []peer, passes int) ([]codec.Result, error) {
	// The clock is of the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := len(pages) / pageSize
	b := &batch{pages: bytes.Clone(pages), packed: make([]byte, n*stride), sizes: make([]uint32, n)}
	for i := range b.packed {
		b.packed[i] = 1
	}
	pieces := (n + piecePages - 1) / piecePages
	packs, unpacks := make([]best, len(peers)), make([]best, len(peers))
	results := make([]codec.Result, len(peers))
	for i := range peers {
		packs[i], unpacks[i] = make(best, pieces), make(best, pieces)
	}
	for range passes {
		for i, p := range peers {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			for k := range pieces {
				part := b.part(k*piecePages, min((k+1)*piecePages, n))
				packs[i].time(k, func() { p.pack(part) })
			}
			bad := 0
			for k := range pieces {
				part := b.part(k*piecePages, min((k+1)*piecePages, n))
				unpacks[i].time(k, func() { bad += p.unpack(part) })
			}
			if bad > 0 || !bytes.Equal(b.pages, pages) {
				return nil, fmt.Errorf("%s: inflated pages differ from the originals (the library reported %d)", p.name, bad)
			}
			results[i] = summary(p, b.sizes)
		}
	}
	for i := range results {
		results[i].CompressMBps = packs[i].mbps(len(pages))
		results[i].InflateMBps = unpacks[i].mbps(len(pages))
	}
	return results, nil
}

// summary returns the ratio and the number of raw pages for sizes of packed pages.
func summary(p peer, sizes []uint32) codec.Result {
	r := codec.Result{Codec: p.name, Tier: p.tier}
	total := 0
	for _, n := range sizes {
		total += int(n)
		if n == pageSize {
			r.RawPages++
		}
	}
	r.Ratio = float64(len(sizes)*pageSize) / float64(total)
	return r
}
