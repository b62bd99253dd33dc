package deflate

import (
	"bytes"
	stdflate "compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"testing"

	kpflate "github.com/klauspost/compress/flate"

	"github.com/vmferry/vmferry/internal/corpus"
)

var modes = []Mode{Fast, Dense}

func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(r) }

func TestDeflate_EveryInflaterReadsTheStreams(t *testing.T) {
	pages := testPages(t)
	eachTier(t, func(t *testing.T, _ *routines) { everyInflaterReads(t, pages) })
}

func everyInflaterReads(t *testing.T, pages []testPage) {
	d := NewDecoder()
	for _, mode := range modes {
		e := NewEncoder(mode)
		for _, p := range pages {
			stream := make([]byte, len(p.data)+64)
			stream = stream[:e.Deflate(stream, p.data)]
			if len(stream) == 0 || len(stream) > storedSize(len(p.data)) {
				t.Fatalf("%v %s: %d bytes become %d", mode, p.name, len(p.data), len(stream))
			}
			got, err := io.ReadAll(stdflate.NewReader(bytes.NewReader(stream)))
			if err != nil || !bytes.Equal(got, p.data) {
				t.Fatalf("%v %s: compress/flate: differs, error %v", mode, p.name, err)
			}
			got, err = io.ReadAll(kpflate.NewReader(bytes.NewReader(stream)))
			if err != nil || !bytes.Equal(got, p.data) {
				t.Fatalf("%v %s: klauspost/compress: differs, error %v", mode, p.name, err)
			}
			got = make([]byte, len(p.data))
			if err := d.Inflate(got, stream); err != nil || !bytes.Equal(got, p.data) {
				t.Fatalf("%v %s: Inflate: differs, error %v", mode, p.name, err)
			}
		}
	}
}

func TestDeflate_StreamsSuitTheAccelerator(t *testing.T) {
	pages := testPages(t)
	eachTier(t, func(t *testing.T, _ *routines) { streamsSuitTheAccelerator(t, pages) })
}

func streamsSuitTheAccelerator(t *testing.T, pages []testPage) {
	for _, mode := range modes {
		e := NewEncoder(mode)
		for _, p := range pages {
			stream := make([]byte, len(p.data)+64)
			stream = stream[:e.Deflate(stream, p.data)]
			ref, err := refInflate(stream, len(p.data))
			if err != nil || !bytes.Equal(ref.out, p.data) {
				t.Fatalf("%v %s: strict reference: differs, error %v", mode, p.name, err)
			}
			if ref.maxDistance > maxDistance {
				t.Errorf("%v %s: distance %d", mode, p.name, ref.maxDistance)
			}
			if mode == Fast && ref.blocks[2] > 0 {
				t.Errorf("fast %s: dynamic block", p.name)
			}
			if ref.maxCode > codeLimit {
				t.Errorf("%v %s: code of %d bits", mode, p.name, ref.maxCode)
			}
		}
	}
}

func TestDeflate_UsesEveryBlockType(t *testing.T) {
	pages := testPages(t)
	eachTier(t, func(t *testing.T, _ *routines) { usesEveryBlockType(t, pages) })
}

func usesEveryBlockType(t *testing.T, pages []testPage) {
	var blocks [3]int
	e := NewEncoder(Dense)
	for _, p := range pages {
		stream := make([]byte, len(p.data)+64)
		ref, err := refInflate(stream[:e.Deflate(stream, p.data)], len(p.data))
		if err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		for kind, n := range ref.blocks {
			blocks[kind] += n
		}
	}
	for kind, n := range blocks {
		if n == 0 {
			t.Errorf("no test page leads to a block of type %d", kind)
		}
	}
}

func TestDeflate_StaysWithinDst(t *testing.T) {
	pages := testPages(t)
	eachTier(t, func(t *testing.T, _ *routines) { staysWithinDst(t, pages) })
}

func staysWithinDst(t *testing.T, pages []testPage) {
	for _, mode := range modes {
		e := NewEncoder(mode)
		for _, p := range pages {
			full := make([]byte, len(p.data)+64)
			full = full[:e.Deflate(full, p.data)]
			for _, room := range []int{0, 1, len(full) / 2, len(full) - 1, len(full), len(full) + 1} {
				buf := bytes.Repeat([]byte{0xa5}, room+32)
				n := e.Deflate(buf[:room:room], p.data)
				switch {
				case room < len(full) && n != 0:
					t.Fatalf("%v %s: %d bytes in room for %d", mode, p.name, n, room)
				case room >= len(full) && !bytes.Equal(buf[:n], full):
					t.Fatalf("%v %s: room for %d changes the stream", mode, p.name, room)
				}
				for i, b := range buf[room:] {
					if b != 0xa5 {
						t.Fatalf("%v %s: byte %d behind dst written", mode, p.name, i)
					}
				}
			}
		}
	}
}

func TestDeflate_RefusesInvalidPageSizes(t *testing.T) {
	dst := make([]byte, 2*MaxPageSize)
	for _, n := range []int{0, MaxPageSize + 1} {
		if got := NewEncoder(Fast).Deflate(dst, make([]byte, n)); got != 0 {
			t.Errorf("page of %d bytes: %d, want 0", n, got)
		}
	}
}

func TestDeflate_IncompressiblePageReturnsZero(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		page := make([]byte, 4096)
		corpus.Fill(page, corpus.Random, 1)
		for _, mode := range modes {
			if n := NewEncoder(mode).Deflate(make([]byte, len(page)-1), page); n != 0 {
				t.Errorf("%v: random page becomes %d bytes", mode, n)
			}
			if n := NewEncoder(mode).Deflate(make([]byte, len(page)+5), page); n != len(page)+5 {
				t.Errorf("%v: random page becomes %d bytes, want a stored block", mode, n)
			}
		}
	})
}

// The stream of a page must not depend on the processor that runs a tier, nor on what the
// encoder did before. This is the hash over many, so that builds that never run side by
// side agree too. Tiers that share an algorithm share their hash.
func TestDeflate_StreamsOfATierNeverChange(t *testing.T) {
	blocks := map[Mode]string{
		Fast:  "2558f2480420c33f653cc48ae3b70fbb2edec6fde4e8bd88c04d5fee27f7d96c",
		Dense: "9d06f793cbf4e1b4abecb8a1ffd147ee03791d0ccd6c2cf79eb95f80e71b6be4",
	}
	plain := map[Mode]string{
		Fast:  "0b4caf06fa41e98be63aedbc825001a370c060fe50aecadfe1d2a0ca94a17505",
		Dense: "f542d7785fdd782a925e031107d6be19eb433b34f06cf17ea1a86f1914bf9b78",
	}
	want := map[string]map[Mode]string{"vbmi2": blocks, "avx512": blocks, "avx2": plain, "go": plain}
	eachTier(t, func(t *testing.T, _ *routines) {
		for _, mode := range modes {
			if got := hashOfStreams(t, mode); got != want[Tier()][mode] {
				t.Errorf("%v: streams have hash %s, want %s", mode, got, want[Tier()][mode])
			}
		}
	})
}

func hashOfStreams(t *testing.T, mode Mode) string {
	sum := sha256.New()
	used := NewEncoder(mode)
	for _, size := range []int{100, 4096, 16 << 10, MaxPageSize} {
		pages := corpus.Generate(uint64(size), 64)
		for at := 0; at+size <= len(pages); at += size {
			page := pages[at : at+size]
			stream := make([]byte, size+64)
			stream = stream[:used.Deflate(stream, page)]
			sum.Write(stream)
			if at == 0 {
				again := make([]byte, size+64)
				if n := NewEncoder(mode).Deflate(again, page); !bytes.Equal(again[:n], stream) {
					t.Errorf("%v: a fresh encoder emits something else", mode)
				}
			}
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func TestDeflate_DoesNotAllocate(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		pages := corpus.Generate(3, 16)
		d := NewDecoder()
		for _, mode := range modes {
			e := NewEncoder(mode)
			stream, out := make([]byte, 4101), make([]byte, 4096)
			allocs := testing.AllocsPerRun(10, func() {
				for at := 0; at < len(pages); at += 4096 {
					n := e.Deflate(stream, pages[at:at+4096])
					if err := d.Inflate(out, stream[:n]); err != nil {
						panic(err)
					}
				}
			})
			if allocs != 0 {
				t.Errorf("%v: %v allocations for 16 pages there and back", mode, allocs)
			}
		}
	})
}

func TestMode_Names(t *testing.T) {
	if got := fmt.Sprint(Fast, Dense); got != "fast dense" {
		t.Errorf("modes are called %q", got)
	}
}

func TestDeflate_SkewedBytesShrinkWithoutMatches(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		// Sixteen byte values in no order: four bits each, though hardly a match.
		page := make([]byte, 4096)
		corpus.Fill(page, corpus.Random, 5)
		for i := range page {
			page[i] = page[i]&15*17 ^ 0x5a
		}
		dense := NewEncoder(Dense).Deflate(make([]byte, 4095), page)
		if dense == 0 || dense > 2500 {
			t.Errorf("page of four bits a byte becomes %d bytes", dense)
		}
	})
}
