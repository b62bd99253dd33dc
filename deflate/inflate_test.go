package deflate

import (
	"bytes"
	stdflate "compress/flate"
	"errors"
	"strings"
	"testing"

	kpflate "github.com/klauspost/compress/flate"

	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/internal/soak"
)

// flusher is what both other encoders have in common.
type flusher interface {
	Write([]byte) (int, error)
	Flush() error
	Close() error
}

func TestInflate_ReadsStreamsOfOtherEncoders(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		d := NewDecoder()
		check := func(name string, stream, page []byte) {
			t.Helper()
			got := make([]byte, len(page))
			if err := d.Inflate(got, stream); err != nil || !bytes.Equal(got, page) {
				t.Fatalf("%s: differs, error %v", name, err)
			}
		}
		pages := testPages(t)
		for level := -2; level <= 9; level += soak.Times(4, 1) {
			var std, kp bytes.Buffer
			w1, err := stdflate.NewWriter(&std, level)
			if err != nil {
				t.Fatal(err)
			}
			w2, err := kpflate.NewWriter(&kp, level)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range pages {
				std.Reset()
				kp.Reset()
				w1.Reset(&std)
				w2.Reset(&kp)
				for _, w := range []flusher{w1, w2} {
					// A flush in the middle makes several blocks, one of them empty.
					half := len(p.data) / 2 * (i & 1)
					w.Write(p.data[:half])
					if half > 0 {
						w.Flush()
					}
					w.Write(p.data[half:])
					if err := w.Close(); err != nil {
						t.Fatal(err)
					}
				}
				check("compress/flate "+p.name, std.Bytes(), p.data)
				check("klauspost "+p.name, kp.Bytes(), p.data)
			}
		}
	})
}

func TestInflate_EveryLengthAndDistance(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		d := NewDecoder()
		noise := make([]byte, MaxPageSize)
		corpus.Fill(noise, corpus.Random, 11)
		const window = 32 << 10
		lengthStep := 37
		if testing.Short() {
			lengthStep = 149
		}
		for distance := 1; distance <= window; distance++ {
			// All lengths for distances where copying has cases, and a moving few
			// elsewhere.
			step := 1
			if distance > 140 {
				step = lengthStep
			}
			head := distance
			b := newBuild().raw(blockStored, 3)
			b.finish()
			b.raw(head&0xffff, 16).raw(^head&0xffff, 16)
			b.n += copy(b.buf[b.n:], noise[:head])
			b.raw(blockFinal|blockFixed, 3)
			want := bytes.Clone(noise[:head])
			for length := 3 + distance%step; length <= maxMatch; length += step {
				if len(want)+length > MaxPageSize {
					break
				}
				b.fixedMatch(length, distance)
				for range length {
					want = append(want, want[len(want)-distance])
				}
				// Something new, or a period of one would hide mistakes.
				if len(want) < MaxPageSize {
					b.fixedSymbol(length & 0xff)
					want = append(want, byte(length))
				}
			}
			stream := b.fixedSymbol(endOfBlock).stream()
			got := make([]byte, len(want))
			if err := d.Inflate(got, stream); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("distance %d: differs, error %v", distance, err)
			}
		}
	})
}

// Trees from one bit to fifteen deep, of every symbol in turn at every depth.
func TestInflate_EveryCodeLength(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		d := NewDecoder()
		for depth := 1; depth <= maxCodeBits; depth++ {
			// All symbols at all depths up to fifteen, the others by samples.
			step := 1
			if depth < maxCodeBits {
				step = 9
			}
			for rotate := 0; rotate < numLitLen; rotate += step {
				// A comb: one symbol at each depth, two at the last.
				lens := make([]uint8, numLitLen)
				var used []int
				add := func(n int) {
					sym := (rotate + len(used)*19) % numLitLen
					for lens[sym] != 0 {
						sym = (sym + 1) % numLitLen
					}
					lens[sym] = uint8(n)
					used = append(used, sym)
				}
				for n := 1; n < depth; n++ {
					add(n)
				}
				add(depth)
				add(depth)
				if lens[endOfBlock] == 0 {
					lens[endOfBlock], lens[used[len(used)-1]] = uint8(depth), 0
					used[len(used)-1] = endOfBlock
				}
				distLens := make([]uint8, 16)
				for i := range distLens[:depth] {
					distLens[i] = uint8(i + 1)
				}
				distLens[depth] = uint8(depth)
				if depth == maxCodeBits {
					distLens = append(distLens[:15], 15)
					distLens[14] = 15
					distLens[13] = 14
				}
				codes, distCodes := canonicalCodes(lens), canonicalCodes(distLens)
				b := newBuild().dynamicHeader(lens, distLens)
				// A literal to begin with, if there is one to be had.
				var want []byte
				for round := range 3 {
					for i, sym := range used {
						if sym < 256 {
							b.code(codes[sym], int(lens[sym]))
							want = append(want, byte(sym))
						}
						if sym > 256 && len(want) > 0 {
							b.code(codes[sym], int(lens[sym]))
							e := litLenEntries[sym]
							b.raw(0, int(e&entryCount))
							// The deepest distance code within what there is.
							ds := (i + round) % len(distLens)
							for int(distanceEntries[ds]>>entryValue) > len(want) || distLens[ds] == 0 {
								ds--
							}
							b.code(distCodes[ds], int(distLens[ds])).raw(0, int(distanceEntries[ds]&entryCount))
							for range e >> entryValue {
								want = append(want, want[len(want)-int(distanceEntries[ds]>>entryValue)])
							}
						}
					}
				}
				stream := b.code(codes[endOfBlock], int(lens[endOfBlock])).stream()
				ref, err := refInflate(stream, len(want))
				if err != nil || !bytes.Equal(ref.out, want) {
					t.Fatalf("depth %d rotate %d: the test's own stream is wrong: %v", depth, rotate, err)
				}
				got := make([]byte, len(want))
				if err := d.Inflate(got, stream); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("depth %d rotate %d: differs, error %v", depth, rotate, err)
				}
			}
		}
	})
}

func TestInflate_ErrorNamesTheCorruption(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		text := make([]byte, 4096)
		corpus.Fill(text, corpus.Text, 1)
		good := make([]byte, 4096)
		good = good[:NewEncoder(Dense).Deflate(good, text)]
		eight := make([]uint8, 257) // 256 codes of eight bits are complete
		for i := range eight[:255] {
			eight[i] = 8
		}
		eight[256] = 8
		over := bytes.Clone(eight)
		over[255] = 7
		under := bytes.Clone(eight)
		under[3] = 0
		endless := make([]uint8, 257)
		for i := range endless[:256] {
			endless[i] = 8
		}
		oneDist := []uint8{1}
		for _, test := range []struct {
			name, want string
			stream     []byte
			size       int
		}{
			{"empty", "ends within a block header", nil, 10},
			{"reserved type", "reserved block type", []byte{7}, 10},
			{"stored length", "complement", []byte{1, 2, 0, 2, 0}, 2},
			{"stored header cut", "within a stored block's header", []byte{1, 2, 0}, 2},
			{"stored cut", "within a stored block", []byte{1, 2, 0, 0xfd, 0xff, 1}, 2},
			{"stored too long", "longer than the page", []byte{1, 2, 0, 0xfd, 0xff, 1, 2}, 1},
			{"cut", "ends within a block", good[:len(good)-8], 4096},
			{"cut in lengths", "code lengths", good[:20], 4096},
			{"trailing byte", "1 bytes follow", append(bytes.Clone(good), 0), 4096},
			{"trailing page", "5000 bytes follow", append(bytes.Clone(good), make([]byte, 5000)...), 4096},
			{"short", "short of the page", good, 4097},
			{"long", "longer than the page", good, 4095},
			{"far longer", "longer than the page", good, 100},
			{"distance 1 at 0", "before the start", newBuild().raw(3, 3).fixedMatch(3, 1).fixedSymbol(256).stream(), 3},
			{"distance 3 at 2", "before the start", newBuild().raw(3, 3).fixedSymbol(1).fixedSymbol(2).fixedMatch(3, 3).fixedSymbol(256).stream(), 5},
			{"length symbol 286", "without meaning", newBuild().raw(3, 3).fixedSymbol(286).raw(0, 30).stream(), 3},
			{"length symbol 287", "without meaning", newBuild().raw(3, 3).fixedSymbol(287).raw(0, 30).stream(), 3},
			{"distance symbol 30", "without meaning", newBuild().raw(3, 3).fixedSymbol(65).fixedSymbol(257).code(30, 5).raw(0, 30).stream(), 4},
			{"distance symbol 31", "without meaning", newBuild().raw(3, 3).fixedSymbol(65).fixedSymbol(257).code(31, 5).raw(0, 30).stream(), 4},
			{"287 lengths", "than there are symbols", newBuild().raw(5, 3).raw(30, 5).raw(0, 5).raw(0, 4).raw(0, 60).stream(), 1},
			{"31 distances", "than there are symbols", newBuild().raw(5, 3).raw(0, 5).raw(30, 5).raw(0, 4).raw(0, 60).stream(), 1},
			{"lengths over-subscribed", "code of code lengths", newBuild().raw(5, 3).raw(0, 14).raw(0x249, 12).raw(0, 60).stream(), 1},
			{"lengths incomplete", "code of code lengths", newBuild().raw(5, 3).raw(0, 14).raw(1, 12).raw(0, 60).stream(), 1},
			{"lengths empty", "code of code lengths", newBuild().raw(5, 3).raw(0, 14).raw(0, 60).stream(), 1},
			{"repeat before first", "before the first", newBuild().raw(5, 3).raw(0, 14).raw(0x201, 12).raw(1, 1).raw(0, 60).stream(), 1},
			{"repeat past last", "past the last", newBuild().raw(5, 3).raw(0, 14).raw(0x240, 12).raw(0x7fffff, 23).raw(0, 60).stream(), 1},
			{"over-subscribed", "over-subscribed", newBuild().dynamicHeader(append(over, 8), oneDist).raw(0, 60).stream(), 1},
			{"incomplete", "incomplete", newBuild().dynamicHeader(under, oneDist).raw(0, 60).stream(), 1},
			{"no end", "without an end-of-block", newBuild().dynamicHeader(endless, oneDist).raw(0, 60).stream(), 1},
			{"distances over-subscribed", "distance code", newBuild().dynamicHeader(eight, []uint8{1, 1, 1}).raw(0, 60).stream(), 1},
			{"distances incomplete", "distance code", newBuild().dynamicHeader(eight, []uint8{2, 2}).raw(0, 60).stream(), 1},
		} {
			dst := bytes.Repeat([]byte{0x77}, test.size)
			err := NewDecoder().Inflate(dst, test.stream)
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
			}
			if !bytes.Equal(dst, bytes.Repeat([]byte{0x77}, test.size)) {
				t.Errorf("%s: dst written in spite of the error", test.name)
			}
			if _, err := refInflate(test.stream, test.size); err == nil {
				t.Errorf("%s: the strict reference accepts it", test.name)
			}
		}
	})
}

func TestInflate_RefusesHugePages(t *testing.T) {
	if err := NewDecoder().Inflate(make([]byte, MaxPageSize+1), []byte{3, 0}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

// verdicts compares Inflate with the strict reference on one stream.
func verdicts(t *testing.T, d *Decoder, stream []byte, size int) {
	t.Helper()
	ref, want := refInflate(stream, size)
	got := make([]byte, size)
	err := d.Inflate(got, stream)
	if (err == nil) != (want == nil) {
		t.Fatalf("Inflate says %v, the reference %v, of a page of %d bytes in %x", err, want, size, stream)
	}
	if err == nil && !bytes.Equal(got, ref.out) {
		t.Fatalf("Inflate and the reference differ on a page of %d bytes in %x", size, stream)
	}
	if err != nil && !errors.Is(err, ErrCorrupt) {
		t.Fatalf("error %v does not wrap ErrCorrupt", err)
	}
}

func TestInflate_EveryTruncationIsAnError(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		d := NewDecoder()
		for _, kind := range corpus.Kinds() {
			page := make([]byte, 1024)
			corpus.Fill(page, kind, 21)
			for _, mode := range modes {
				stream := make([]byte, 1100)
				stream = stream[:NewEncoder(mode).Deflate(stream, page)]
				for n := range stream {
					if err := d.Inflate(make([]byte, len(page)), stream[:n:n]); !errors.Is(err, ErrCorrupt) {
						t.Fatalf("%v %v cut to %d of %d bytes: error %v", mode, kind, n, len(stream), err)
					}
				}
			}
		}
	})
}

func TestInflate_BitFlipsAgreeWithFlate(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		d := NewDecoder()
		for _, kind := range corpus.Kinds() {
			page := make([]byte, 250)
			corpus.Fill(page, kind, 22)
			for _, mode := range modes {
				stream := make([]byte, 300)
				stream = stream[:NewEncoder(mode).Deflate(stream, page)]
				for bit := range 8 * len(stream) {
					stream[bit/8] ^= 1 << (bit % 8)
					verdicts(t, d, stream, len(page))
					stream[bit/8] ^= 1 << (bit % 8)
				}
			}
		}
	})
}

func TestInflate_DecoderWorksAfterAnError(t *testing.T) {
	eachTier(t, func(t *testing.T, _ *routines) {
		d := NewDecoder()
		page := make([]byte, 4096)
		corpus.Fill(page, corpus.Code, 1)
		stream := make([]byte, 4096)
		stream = stream[:NewEncoder(Dense).Deflate(stream, page)]
		for n := 0; n < len(stream); n += 13 {
			_ = d.Inflate(make([]byte, 4096), stream[:n])
			got := make([]byte, 4096)
			if err := d.Inflate(got, stream); err != nil || !bytes.Equal(got, page) {
				t.Fatalf("after a stream cut to %d bytes: error %v", n, err)
			}
		}
	})
}
