package iaamodel

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/internal/deflate"
)

func deflated(t testing.TB, p []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func text(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = "the quick brown fox"[rng.IntN(1+rng.IntN(19))]
	}
	return p
}

func TestInflate_AgreesWithFlate(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var z inflater
	for i := range 120 {
		p := text(rng, rng.IntN(history))
		if i%5 == 0 {
			for k := range p {
				p[k] = byte(rng.Uint32())
			}
		}
		s := deflated(t, p, []int{0, 1, 9, flate.HuffmanOnly}[i%4])
		out := make([]byte, history)
		r := z.inflate(out, append(s, 1, 2, 3)) // what follows the stream is not touched
		if r.code != 0 || r.overflow || !bytes.Equal(out[:r.n], p) || r.used != len(s) {
			t.Fatalf("stream %d: %+v, want %d bytes of %d", i, r, len(p), len(s))
		}
	}
}

// bitStream builds streams by hand.
type bitStream struct {
	buf [1 << 14]byte
	w   *deflate.BitWriter
}

func newBits() *bitStream {
	b := new(bitStream)
	b.w = deflate.NewBitWriter(b.buf[:])
	return b
}

// fixed appends a symbol of the fixed literal code.
func (b *bitStream) fixed(sym int) *bitStream {
	var lengths [288]uint8
	var codes [288]uint16
	for s := range lengths {
		lengths[s] = deflate.FixedLitLenBits(s)
	}
	deflate.Codes(codes[:], lengths[:])
	b.w.Code(uint32(codes[sym]), uint(lengths[sym]))
	return b
}

func (b *bitStream) bits(v uint32, n uint) *bitStream { b.w.Bits(v, n); return b }

func (b *bitStream) code(v uint32, n uint) *bitStream { b.w.Code(v, n); return b }

func (b *bitStream) bytes() []byte {
	b.w.Flush()
	return b.buf[:b.w.Len()]
}

func TestInflate_ErrorCodes(t *testing.T) {
	// A stored block of 5000 bytes and then a match that reaches back 4097.
	far := newBits().bits(0, 3).bits(0, 5).bits(5000, 16).bits(5000^0xffff, 16)
	for range 5000 {
		far.bits('x', 8)
	}
	far.bits(1|1<<1, 3).fixed(257).code(24, 5).bits(0, 11).fixed(256) // distance symbol 24: from 4097

	for name, test := range map[string]struct {
		stream []byte
		want   iaa.Code
	}{
		"block type 3":         {newBits().bits(1|3<<1, 3).bytes(), iaa.CodeBlockType},
		"stored length":        {newBits().bits(1, 3).bits(0, 5).bits(5, 16).bits(5, 16).bytes(), iaa.CodeStoredLength},
		"no end of block":      {newBits().bits(1|1<<1, 3).fixed('a').bytes(), iaa.CodeMissingEOB},
		"stored data missing":  {newBits().bits(1, 3).bits(0, 5).bits(5, 16).bits(0xfffa, 16).bits('a', 8).bytes(), iaa.CodeMissingEOB},
		"before the start":     {newBits().bits(1|1<<1, 3).fixed('a').fixed(257).code(1, 5).bytes(), iaa.CodeBeforeStart},
		"beyond the history":   {far.bytes(), iaa.CodeBadDistance},
		"distance symbol 30":   {newBits().bits(1|1<<1, 3).fixed('a').fixed(257).code(30, 5).bits(0, 16).bytes(), iaa.CodeBadDistance},
		"length symbol 286":    {newBits().bits(1|1<<1, 3).fixed('a').fixed(286).bits(0, 16).bytes(), iaa.CodeBadLength},
		"header ends early":    {newBits().bits(1|2<<1, 3).bits(0, 5).bytes(), iaa.CodeHeaderTruncated},
		"287 literal codes":    {newBits().bits(1|2<<1, 3).bits(30, 5).bits(0, 5).bits(0, 4).bits(0, 16).bytes(), iaa.CodeTooManyLitLen},
		"31 distance codes":    {newBits().bits(1|2<<1, 3).bits(0, 5).bits(30, 5).bits(0, 4).bits(0, 16).bytes(), iaa.CodeTooManyDist},
		"oversubscribed":       {newBits().bits(1|2<<1, 3).bits(0, 5).bits(0, 5).bits(0, 4).bits(0x249, 12).bits(0, 16).bytes(), iaa.CodeCodeLenTable},
		"begins with a repeat": {newBits().bits(1|2<<1, 3).bits(0, 5).bits(0, 5).bits(0, 4).bits(1, 3).bits(0, 9).bits(0, 32).bytes(), iaa.CodeLitLenRepeat},
		"empty":                {nil, iaa.CodeMissingEOB},
	} {
		t.Run(name, func(t *testing.T) {
			var z inflater
			if r := z.inflate(make([]byte, 1<<14), test.stream); r.code != test.want {
				t.Errorf("got %v, want %v", r.code, test.want)
			}
		})
	}
}

func TestInflate_Overflow(t *testing.T) {
	s := deflated(t, bytes.Repeat([]byte("a"), 100), 1)
	var z inflater
	guard := make([]byte, 101)
	if r := z.inflate(guard[:99], s); !r.overflow || r.n != 99 || guard[99] != 0 {
		t.Errorf("99 bytes of room for 100: %+v, next byte %d", r, guard[99])
	}
	if r := z.inflate(guard[:100], s); r.overflow || r.n != 100 {
		t.Errorf("100 bytes of room for 100: %+v", r)
	}
}

// FuzzInflate holds the model's inflate against compress/flate: where the model
// succeeds, flate gives the same bytes; where only flate does, the model names a
// limit of the device.
func FuzzInflate(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 7))
	for i, level := range []int{0, 1, 9, flate.HuffmanOnly} {
		f.Add(deflated(f, text(rng, 100*(i+1)), level))
	}
	f.Add(deflated(f, append(text(rng, 6000), text(rand.New(rand.NewPCG(7, 7)), 500)...), 9))
	f.Add([]byte{3, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, stream []byte) {
		var z inflater
		out := make([]byte, 1<<16)
		r := z.inflate(out, stream)
		want, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(stream)), 1<<17))
		switch {
		case r.code == 0 && !r.overflow:
			// Incomplete tables are an error to flate at once, to the device
			// only when an unused code turns up.
			var corrupt flate.CorruptInputError
			if err != nil && !errors.As(err, &corrupt) {
				t.Fatalf("model inflates %d bytes, flate fails: %v", r.n, err)
			}
			if err == nil && !bytes.Equal(out[:r.n], want) {
				t.Fatalf("model gives %d bytes, flate %d other ones", r.n, len(want))
			}
		case err == nil && r.overflow:
			if len(want) <= len(out) {
				t.Fatalf("model overflows at %d bytes, flate gives %d", len(out), len(want))
			}
		case err == nil && r.code != iaa.CodeBadDistance:
			t.Fatalf("flate inflates %d bytes, model fails: %v", len(want), r.code)
		}
	})
}
