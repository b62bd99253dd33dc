package deflate

import (
	"bytes"
	stdflate "compress/flate"
	"io"
	"testing"

	"github.com/vmferry/vmferry/internal/corpus"
)

func FuzzDeflate(f *testing.F) {
	for _, kind := range corpus.Kinds() {
		page := make([]byte, 300)
		corpus.Fill(page, kind, 1)
		f.Add(page, uint16(1), true)
	}
	f.Add([]byte("abcabcabcd"), uint16(500), false)
	all := codecsOfAllTiers()
	f.Fuzz(func(t *testing.T, seed []byte, repeat uint16, flip bool) {
		// Pages long enough to be interesting from inputs short enough to mutate.
		page := bytes.Repeat(seed, 1+int(repeat)%64)
		page = page[:min(len(page), MaxPageSize)]
		if flip {
			for i := 0; i < len(page); i += 1 + int(repeat) {
				page[i] ^= byte(i >> 3)
			}
		}
		if len(page) == 0 {
			return
		}
		for _, codec := range all {
			for _, mode := range modes {
				codec.roundTrip(t, mode, page)
			}
		}
	})
}

// codec is an encoder for each mode and a decoder, of one tier.
type codec struct {
	tier     string
	encoders map[Mode]*Encoder
	decoder  *Decoder
}

func codecsOfAllTiers() []codec {
	defer active.Store(active.Load())
	var all []codec
	for _, tier := range tiers {
		if tier.runs {
			active.Store(tier)
			all = append(all, codec{tier.name, map[Mode]*Encoder{Fast: NewEncoder(Fast), Dense: NewEncoder(Dense)}, NewDecoder()})
		}
	}
	return all
}

func (c *codec) roundTrip(t *testing.T, mode Mode, page []byte) {
	t.Helper()
	stream := make([]byte, len(page)+16)
	n := c.encoders[mode].Deflate(stream, page)
	if n == 0 || n > storedSize(len(page)) {
		t.Fatalf("%s, %v: %d bytes become %d", c.tier, mode, len(page), n)
	}
	stream = stream[:n]
	got, err := io.ReadAll(stdflate.NewReader(bytes.NewReader(stream)))
	if err != nil || !bytes.Equal(got, page) {
		t.Fatalf("%s, %v: compress/flate: differs, error %v", c.tier, mode, err)
	}
	got = make([]byte, len(page))
	if err := c.decoder.Inflate(got, stream); err != nil || !bytes.Equal(got, page) {
		t.Fatalf("%s, %v: Inflate: differs, error %v", c.tier, mode, err)
	}
	if ref, err := refInflate(stream, len(page)); err != nil || ref.maxDistance > maxDistance {
		t.Fatalf("%s, %v: strict reference: error %v, distance %d", c.tier, mode, err, ref.maxDistance)
	}
	if exact := c.encoders[mode].Deflate(make([]byte, n-1), page); exact != 0 {
		t.Fatalf("%s, %v: %d bytes in room for %d", c.tier, mode, n, n-1)
	}
}

func FuzzInflate(f *testing.F) {
	for _, kind := range corpus.Kinds() {
		page := make([]byte, 300)
		corpus.Fill(page, kind, 2)
		for _, mode := range modes {
			stream := make([]byte, 400)
			f.Add(stream[:NewEncoder(mode).Deflate(stream, page)], uint16(len(page)))
		}
		var b bytes.Buffer
		w, err := stdflate.NewWriter(&b, 9)
		if err != nil {
			f.Fatal(err)
		}
		w.Write(page[:100])
		w.Flush()
		w.Write(page[100:])
		w.Close()
		f.Add(b.Bytes(), uint16(len(page)))
	}
	all := codecsOfAllTiers()
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		ref, _ := refInflate(stream, 1<<16)
		for _, codec := range all {
			verdicts(t, codec.decoder, stream, int(size))
			// Also with the length that the stream gives, or nearly all inputs would fail
			// for their length alone.
			if len(ref.out) <= 1<<16 {
				verdicts(t, codec.decoder, stream, len(ref.out))
			}
		}
	})
}
