package iaa_test

import (
	"bytes"
	"compress/flate"
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

const pageSize = 4096

// start builds a machine and opens it. At the end of the test everything must
// be closed, given back and without violations.
func start(t *testing.T, cfg iaamodel.Config, edit func(*iaa.Options)) (*iaamodel.Machine, *iaa.Device) {
	t.Helper()
	m := machine(t, cfg)
	opts := m.Options()
	opts.JobTimeout = 10 * time.Second
	if edit != nil {
		edit(&opts)
	}
	d, err := iaa.Open(t.Context(), opts)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if nodes, regions := m.Live(); nodes != 0 || regions != 0 {
			t.Errorf("after Close: %d nodes open, %d regions mapped", nodes, regions)
		}
	})
	return m, d
}

func machine(t *testing.T, cfg iaamodel.Config) *iaamodel.Machine {
	t.Helper()
	m, err := iaamodel.New(t.TempDir(), cfg)
	if err != nil {
		t.Fatalf("iaamodel.New: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("machine: %v", err)
		}
		for _, v := range m.Violations() {
			t.Errorf("violation: %s", v)
		}
	})
	return m
}

func session(t *testing.T, d *iaa.Device, cfg iaa.SessionConfig) *iaa.Session {
	t.Helper()
	if cfg.Slots == 0 {
		cfg.Slots = 8
	}
	if cfg.PageSize == 0 {
		cfg.PageSize = pageSize
	}
	s, err := d.NewSession(cfg)
	if err != nil {
		t.Fatalf("NewSession: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("session Close: %v", err)
		}
	})
	return s
}

// page makes a page of a kind that occurs in guests: text, pointers, sparse or
// random bytes.
func page(rng *rand.Rand, size int) []byte {
	p := make([]byte, size)
	switch rng.IntN(5) {
	case 0: // words
		words := []string{"kernel ", "page ", "the ", "migration ", "of ", "queue ", "struct ", "0x"}
		for i := 0; i < size; {
			i += copy(p[i:], words[rng.IntN(len(words))])
		}
	case 1: // pointers
		base := rng.Uint64() &^ 0xffffff
		for i := 0; i+8 <= size; i += 8 {
			v := base | rng.Uint64N(1<<16)<<4
			for b := range 8 {
				p[i+b] = byte(v >> (8 * b))
			}
		}
	case 2: // sparse
		for range 40 {
			p[rng.IntN(size)] = byte(rng.Uint32())
		}
	case 3: // few values
		for i := range p {
			p[i] = "aabacdabe"[rng.IntN(9)]
		}
	case 4: // does not shrink
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
	}
	return p
}

// compress runs one page through a slot.
func compress(t *testing.T, s *iaa.Session, slot int, p []byte) iaa.Result {
	t.Helper()
	if err := s.SubmitCompress(slot, p); err != nil {
		t.Fatalf("SubmitCompress: %v", err)
	}
	r, err := s.Wait(t.Context(), slot)
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	return r
}

func inflateGo(stream []byte) ([]byte, error) {
	return io.ReadAll(flate.NewReader(bytes.NewReader(stream)))
}

// writers are compress/flate's, one a level: making one costs more than a page.
var writers = map[int]*flate.Writer{}

// deflateGo compresses with compress/flate.
func deflateGo(t testing.TB, p []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := writers[level]
	if w == nil {
		var err error
		if w, err = flate.NewWriter(nil, level); err != nil {
			t.Fatal(err)
		}
		writers[level] = w
	}
	w.Reset(&b)
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCompress_IsReadByFlate(t *testing.T) {
	for _, version := range []uint32{0x100, 0x200} {
		for _, huffman := range []iaa.Huffman{iaa.HuffmanFixed, iaa.HuffmanDynamic} {
			t.Run(huffman.String()+map[uint32]string{0x100: "/v1", 0x200: "/v2"}[version], func(t *testing.T) {
				_, d := start(t, iaamodel.Uniform(1, func(d *iaamodel.Device) { d.Version = version }), nil)
				s := session(t, d, iaa.SessionConfig{Huffman: huffman})
				rng := rand.New(rand.NewPCG(1, uint64(huffman)))
				shrunk, overflows := 0, 0
				for i := range 400 {
					p := page(rng, pageSize)
					r := compress(t, s, i%s.Slots(), p)
					if r.Overflow {
						overflows++
						continue
					}
					shrunk++
					if len(r.Output) >= pageSize {
						t.Fatalf("page %d: %d bytes", i, len(r.Output))
					}
					if got, err := inflateGo(r.Output); err != nil || !bytes.Equal(got, p) {
						t.Fatalf("page %d: flate gives %d bytes, error %v", i, len(got), err)
					}
				}
				if shrunk == 0 || overflows == 0 {
					t.Errorf("%d pages shrank, %d did not: the test wants both", shrunk, overflows)
				}
				st := d.Stats()
				if st.Compressed != 400 || st.Overflows != int64(overflows) || len(st.Failures) != 0 {
					t.Errorf("stats: %+v", st)
				}
			})
		}
	}
}

func TestInflate_ReadsFlate(t *testing.T) {
	m, d := start(t, iaamodel.Uniform(1, nil), nil)
	guest, err := m.Guest(16*pageSize, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Register(guest); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Unregister(guest); err != nil {
			t.Error(err)
		}
		if err := m.Unmap(guest); err != nil {
			t.Error(err)
		}
	}()
	for _, bounce := range []bool{false, true} {
		s := session(t, d, iaa.SessionConfig{Bounce: bounce})
		rng := rand.New(rand.NewPCG(2, 2))
		for i := range 300 {
			p := page(rng, pageSize)
			stream := deflateGo(t, p, []int{flate.BestSpeed, flate.BestCompression, flate.HuffmanOnly, flate.NoCompression}[i%4])
			if len(stream) > pageSize {
				continue
			}
			dst := guest[i%16*pageSize:][:pageSize]
			if i%3 == 0 {
				dst = make([]byte, pageSize) // of the heap: bounced
			}
			if err := s.SubmitInflate(i%8, stream, dst); err != nil {
				t.Fatal(err)
			}
			r, err := s.Wait(t.Context(), i%8)
			if err != nil {
				t.Fatalf("page %d: %v", i, err)
			}
			if !bytes.Equal(dst, p) || !bytes.Equal(r.Output, p) {
				t.Fatalf("page %d: wrong bytes", i)
			}
		}
	}
}
