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
	d := NewDecoder()
	encoders := map[Mode]*Encoder{Fast: NewEncoder(Fast), Dense: NewEncoder(Dense)}
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
		for _, mode := range modes {
			stream := make([]byte, len(page)+16)
			n := encoders[mode].Deflate(stream, page)
			if n == 0 || n > storedSize(len(page)) {
				t.Fatalf("%v: %d bytes become %d", mode, len(page), n)
			}
			stream = stream[:n]
			got, err := io.ReadAll(stdflate.NewReader(bytes.NewReader(stream)))
			if err != nil || !bytes.Equal(got, page) {
				t.Fatalf("%v: compress/flate: differs, error %v", mode, err)
			}
			got = make([]byte, len(page))
			if err := d.Inflate(got, stream); err != nil || !bytes.Equal(got, page) {
				t.Fatalf("%v: Inflate: differs, error %v", mode, err)
			}
			if ref, err := refInflate(stream, len(page)); err != nil || ref.maxDistance > maxDistance {
				t.Fatalf("%v: strict reference: error %v, distance %d", mode, err, ref.maxDistance)
			}
			if exact := encoders[mode].Deflate(make([]byte, n-1), page); exact != 0 {
				t.Fatalf("%v: %d bytes in room for %d", mode, n, n-1)
			}
		}
	})
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
	d := NewDecoder()
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		verdicts(t, d, stream, int(size))
		// Also with the length the stream itself has in mind, or nearly all inputs
		// would fail for their length alone.
		if ref, _ := refInflate(stream, 1<<16); len(ref.out) <= 1<<16 {
			verdicts(t, d, stream, len(ref.out))
		}
	})
}
