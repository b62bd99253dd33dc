package snapshot_test

import (
	"context"
	"errors"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
)

// discarding is a bucket that keeps nothing.
type discarding struct{}

var errNothingKept = errors.New("nothing is kept")

func (discarding) Create(context.Context, string) (store.Writer, error) {
	return discardedObject{}, nil
}
func (discarding) Open(context.Context, string) (store.Object, error) { return nil, errNothingKept }
func (discarding) Remove(context.Context, string) error               { return nil }
func (discarding) List(context.Context) ([]string, error)             { return nil, nil }
func (discarding) String() string                                     { return "nothing" }

type discardedObject struct{}

func (discardedObject) Write(_ context.Context, p []byte) (int, error) { return len(p), nil }
func (discardedObject) Seal(context.Context) error                     { return nil }
func (discardedObject) Open(context.Context) (store.Object, error)     { return nil, errNothingKept }
func (discardedObject) Commit(context.Context) error                   { return nil }
func (discardedObject) Abort(context.Context) error                    { return nil }

// BenchmarkLane encodes packets of pages into extents in memory, in software.
func BenchmarkLane(b *testing.B) {
	for _, kind := range []snapshot.Store{snapshot.StoreFast, snapshot.StoreDense, snapshot.StoreRaw} {
		b.Run(string(kind), func(b *testing.B) {
			l := newLayout(b, 4096, guest.Block{Name: "pc.ram", Length: 128 * guest.PacketBytes})
			w := create(b, discarding{}, l, snapshot.Options{Store: kind})
			lane := openLane(b, w)
			defer lane.Close()
			r := seeded("lane")
			offsets := make([]uint64, l.PacketPages())
			b.SetBytes(guest.PacketBytes)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				for i := range offsets {
					offsets[i] = uint64(n%128*len(offsets)+i) * 4096
				}
				pages, err := lane.Pages(l.Blocks[0], offsets)
				if err != nil {
					b.Fatal(err)
				}
				if n < 2 { // the lane may have two buffers
					for i := range pages {
						copy(pages[i], fillPage(r, 4096))
					}
				}
				if err := lane.Commit(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
