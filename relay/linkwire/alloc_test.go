package linkwire

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"testing"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/corpus"
)

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// steadyFrames are packets of a guest that writes to some of its pages, some of them for
// the second time.
func steadyFrames(level Level) (frames []*Frame) {
	const pageSize = 4096
	capacity := guest.PacketPages(pageSize)
	memory := corpus.Generate(1, 2*capacity)
	for i := range 4 {
		var pages [][]byte
		for j := range capacity {
			at := (i%2*capacity + j) * pageSize
			page := bytes.Clone(memory[at : at+pageSize])
			page[8*i] ^= byte(j % 2) // half of the pages are equal to the ones before
			pages = append(pages, page)
		}
		clear(pages[5])
		frames = append(frames, &Frame{Unit: packetUnit("pc.ram", i%2*capacity, pageSize, pages...), Level: level})
	}
	return frames
}

func TestPair_DoesNotAllocateInTheSteadyState(t *testing.T) {
	for _, tt := range []struct {
		level Level
		cache int64
		most  float64
	}{
		{LevelRaw, 0, 0},
		{LevelDeflate, 0, 0},
		{LevelDeflate, 1 << 20, 0},
		{LevelZstd, 1 << 20, 0},
		{LevelZstdBetter, 0, 0},
	} {
		name := tt.level.String()
		if tt.cache > 0 {
			name += " with a cache"
		}
		t.Run(name, func(t *testing.T) {
			p := newPair(t, tt.cache, 4096)
			frames := steadyFrames(tt.level)
			out := make([][]byte, 0, 1024)
			var e Event
			var sent uint64
			packet := func() {
				f := frames[sent%uint64(len(frames))]
				if err := p.enc.Begin(f); err != nil {
					t.Fatal(err)
				}
				if err := p.enc.Finish(f); err != nil {
					t.Fatal(err)
				}
				p.wire.Reset()
				vectors := net.Buffers(append(out, f.Out...))
				for _, b := range vectors {
					p.wire.Write(b)
				}
				if err := p.dec.Next(&e); err != nil {
					t.Fatal(err)
				}
				sent++
				if err := p.enc.Acknowledge(sent); err != nil {
					t.Fatal(err)
				}
			}
			for range 12 {
				packet()
			}
			if n := testing.AllocsPerRun(20, packet); n > tt.most {
				t.Errorf("%v allocations a packet, at most %v are right", n, tt.most)
			}
		})
	}
}

func BenchmarkEncoder(b *testing.B) {
	for l := LevelRaw; l <= LevelZstdBetter; l++ {
		b.Run(l.String(), func(b *testing.B) {
			frames := corpusFrames(l)
			e := NewEncoder(nil)
			defer e.Close()
			b.SetBytes(guest.PacketBytes)
			b.ReportAllocs()
			out := 0
			for i := 0; b.Loop(); i++ {
				f := frames[i%len(frames)]
				if err := e.Begin(f); err != nil {
					b.Fatal(err)
				}
				if err := e.Finish(f); err != nil {
					b.Fatal(err)
				}
				out += wireLen(f)
			}
			b.ReportMetric(float64(out)/float64(b.N)/guest.PacketBytes, "wire/plain")
		})
	}
}

func BenchmarkDecoder(b *testing.B) {
	for l := LevelRaw; l <= LevelZstdBetter; l++ {
		b.Run(l.String(), func(b *testing.B) {
			var link []byte
			e := NewEncoder(nil)
			defer e.Close()
			frames := corpusFrames(l)
			for _, f := range frames {
				if err := e.Begin(f); err != nil {
					b.Fatal(err)
				}
				if err := e.Finish(f); err != nil {
					b.Fatal(err)
				}
				link = append(link, bytes.Join(f.Out, nil)...)
			}
			b.SetBytes(guest.PacketBytes)
			b.ReportAllocs()
			d := NewDecoder(bytes.NewReader(link), nil)
			defer func() { d.Close() }()
			var event Event
			for b.Loop() {
				err := d.Next(&event)
				if err == io.EOF { // a zstd stream cannot be given again to the same decoder
					d.Close()
					d = NewDecoder(bytes.NewReader(link), nil)
					err = d.Next(&event)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func wireLen(f *Frame) (n int) {
	for _, b := range f.Out {
		n += len(b)
	}
	return n
}

// corpusFrames are packets of pages as a Linux guest has them.
func corpusFrames(level Level) (frames []*Frame) {
	pages := corpusPages()
	for at := 0; at+guest.PacketBytes <= len(pages); at += guest.PacketBytes {
		u := packetUnit("pc.ram", at/corpus.PageSize, corpus.PageSize, pagesOf(pages[at:at+guest.PacketBytes], corpus.PageSize)...)
		frames = append(frames, &Frame{Unit: u, Level: level})
	}
	return frames
}

func pagesOf(b []byte, pageSize int) (pages [][]byte) {
	for ; len(b) > 0; b = b[pageSize:] {
		pages = append(pages, b[:pageSize])
	}
	return pages
}
