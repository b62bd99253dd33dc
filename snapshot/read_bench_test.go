package snapshot_test

import (
	"io"
	"math/rand/v2"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
)

// benchSnapshot keeps 32 MiB of pages in a directory and opens it.
func benchSnapshot(b *testing.B, kept snapshot.Store) *snapshot.Reader {
	b.Helper()
	dir, err := store.CreateDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { dir.Close() })
	l := newLayout(b, 4096, guest.Block{Name: "pc.ram", Length: 32 << 20})
	w := create(b, dir, l, snapshot.Options{Store: kept})
	lane := openLane(b, w)
	r := rand.New(rand.NewPCG(1, 2))
	offsets := make([]uint64, 128)
	for first := uint64(0); first < l.Blocks[0].Length; first += 128 * 4096 {
		for i := range offsets {
			offsets[i] = first + uint64(i)*4096
		}
		pages, err := lane.Pages(l.Blocks[0], offsets)
		if err != nil {
			b.Fatal(err)
		}
		for i := range pages {
			copy(pages[i], fillPage(r, 4096))
		}
		if err := lane.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	if err := lane.Close(); err != nil {
		b.Fatal(err)
	}
	finish(b, w, l)
	return open(b, dir)
}

func BenchmarkSource(b *testing.B) {
	for _, kept := range stores {
		b.Run(string(kept), func(b *testing.B) {
			r := benchSnapshot(b, kept)
			b.SetBytes(32 << 20)
			for b.Loop() {
				src := r.Source(snapshot.SourceOptions{SkipDigests: true})
				var batch guest.Batch
				for {
					err := src.Next(b.Context(), &batch)
					if err == io.EOF {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkPage(b *testing.B) {
	for _, tt := range []struct {
		name string
		page func(n int, r *rand.Rand) uint64
	}{
		{"ascending", func(n int, _ *rand.Rand) uint64 { return uint64(n % 8192) }},
		{"random", func(_ int, r *rand.Rand) uint64 { return r.Uint64N(8192) }},
	} {
		b.Run(tt.name, func(b *testing.B) {
			r := benchSnapshot(b, snapshot.StoreFast)
			random := rand.New(rand.NewPCG(3, 4))
			dst := make([]byte, 4096)
			block := r.Layout().Blocks[0]
			b.SetBytes(4096)
			n := 0
			for b.Loop() {
				if err := r.Page(b.Context(), block, 4096*tt.page(n, random), dst); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	}
}
