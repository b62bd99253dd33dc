package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/internal/corpus"
)

// extremes are measurements that a corpus of mixed pages does not give.
type extremes struct {
	randomMBps    [2]float64 // by mode: attempts to compress noise
	zeroCached    float64    // IsZero over the read loop, page in the first cache
	zeroUncached  float64    // the same, memory larger than all caches
	nonZeroMPages float64    // 10^6 pages a second whose first word is not zero
	allocsPerPage float64
}

const (
	uncachedBytes = 256 << 20
	noisePages    = 256
)

func measureExtremes(ctx context.Context, passes int) (extremes, error) {
	// The clock is of the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var x extremes
	noise := make([]byte, noisePages*pageSize)
	corpus.Fill(noise, corpus.Random, 3)
	dst := make([]byte, pageSize-1)
	for mode := range x.randomMBps {
		enc := deflate.NewEncoder(deflate.Mode(mode))
		d := fastest(4*passes, func() {
			for at := 0; at < len(noise); at += pageSize {
				if enc.Deflate(dst, noise[at:at+pageSize]) != 0 {
					panic("noise shrinks")
				}
			}
		})
		x.randomMBps[mode] = float64(len(noise)) / 1e6 / d.Seconds()
	}

	page := make([]byte, pageSize)
	const calls = 10000
	for range passes {
		if err := ctx.Err(); err != nil {
			return x, err
		}
		own := fastest(10, func() {
			for range calls {
				if !deflate.IsZero(page) {
					panic("zeros are not zero")
				}
			}
		})
		loop := fastest(10, func() {
			if readLoops(page, calls) != 0 {
				panic("zeros are not zero")
			}
		})
		x.zeroCached = max(x.zeroCached, loop.Seconds()/own.Seconds())
	}

	mem := make([]byte, uncachedBytes)
	for i := 0; i < len(mem); i += pageSize {
		mem[i] = 1 // otherwise all pages would be the shared zero page
		mem[i] = 0
	}
	zero := make([]bool, len(mem)/pageSize)
	own, loop := time.Hour, time.Hour
	for range passes {
		if err := ctx.Err(); err != nil {
			return x, err
		}
		own = min(own, fastest(1, func() {
			if deflate.ZeroPages(mem, pageSize, zero) != len(zero) {
				panic("zeros are not zero")
			}
		}))
		loop = min(loop, fastest(1, func() {
			if readLoops(mem, 1) != 0 {
				panic("zeros are not zero")
			}
		}))
	}
	x.zeroUncached = loop.Seconds() / own.Seconds()

	d := fastest(4*passes, func() {
		for at := 0; at < len(noise); at += pageSize {
			if deflate.IsZero(noise[at : at+pageSize]) {
				panic("noise is zero")
			}
		}
	})
	x.nonZeroMPages = noisePages / d.Seconds() / 1e6

	var err error
	x.allocsPerPage, err = allocations(noise)
	return x, err
}

// allocations returns the number of allocations for compressing and inflating a page.
func allocations(noise []byte) (float64, error) {
	text := make([]byte, pageSize)
	corpus.Fill(text, corpus.Text, 1)
	dst, out := make([]byte, pageSize-1), make([]byte, pageSize)
	dec := deflate.NewDecoder()
	encs := []*deflate.Encoder{deflate.NewEncoder(deflate.Fast), deflate.NewEncoder(deflate.Dense)}
	var err error
	const rounds = 100
	allocs := mallocs(func() {
		for range rounds {
			for _, enc := range encs {
				enc.Deflate(dst, noise[:pageSize])
				n := enc.Deflate(dst, text)
				if e := dec.Inflate(out, dst[:n]); e != nil {
					err = fmt.Errorf("inflating a text page: %w", e)
				}
			}
		}
	})
	return float64(allocs) / (4 * rounds), err
}

// fastest returns the shortest CPU time of n calls of f.
func fastest(n int, f func()) time.Duration {
	best := time.Hour
	for range n {
		start := cpuTime()
		f()
		best = min(best, cpuTime()-start)
	}
	return max(best, 1)
}

// mallocs returns the number of objects that a second call of f allocates.
func mallocs(f func()) uint64 {
	var before, after runtime.MemStats
	f() // allocates what is allocated once
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}
