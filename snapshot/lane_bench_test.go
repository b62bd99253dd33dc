package snapshot_test

import (
	"errors"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/snapshot"
)

// discarding is a bucket that keeps nothing.
type discarding struct{}

func (discarding) Create(string) (snapshot.ObjectWriter, error) { return discarding{}, nil }
func (discarding) Open(string) (snapshot.Object, error)         { return nil, errors.New("nothing is kept") }
func (discarding) Remove(string) error                          { return nil }
func (discarding) List() ([]string, error)                      { return nil, nil }
func (discarding) String() string                               { return "nothing" }
func (discarding) Write(p []byte) (int, error)                  { return len(p), nil }
func (discarding) Commit() error                                { return nil }
func (discarding) Abort() error                                 { return nil }

// BenchmarkLane encodes packets of pages into extents in memory, in software.
func BenchmarkLane(b *testing.B) {
	for _, store := range []snapshot.Store{snapshot.StoreFast, snapshot.StoreDense, snapshot.StoreRaw} {
		b.Run(string(store), func(b *testing.B) {
			l := newLayout(b, 4096, guest.Block{Name: "pc.ram", Length: 128 * guest.PacketBytes})
			w := create(b, discarding{}, l, snapshot.Options{Store: store})
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
				if n == 0 {
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
