package hybrid_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

const (
	pageSize    = 4096
	packetPages = 128
)

// codec is the software path of these tests.
type codec struct {
	w *flate.Writer
	r io.ReadCloser
}

func newCodec(t testing.TB) *codec {
	w, err := flate.NewWriter(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	return &codec{w: w, r: flate.NewReader(nil)}
}

func (c *codec) Deflate(dst, page []byte) int {
	b := bytes.NewBuffer(dst[:0])
	c.w.Reset(b)
	if _, err := c.w.Write(page); err != nil {
		panic(err)
	}
	if err := c.w.Close(); err != nil {
		panic(err)
	}
	if b.Len() > len(dst) {
		return 0
	}
	return b.Len()
}

func (c *codec) Inflate(dst, src []byte) error {
	if err := c.r.(flate.Resetter).Reset(bytes.NewReader(src), nil); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.r, dst); err != nil {
		return err
	}
	if n, err := c.r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return errors.New("stream inflates to more than a page")
	}
	return nil
}

// pages makes n pages in memory that m's devices know, some of which do not shrink.
func pages(t testing.TB, m *iaamodel.Machine, rng *rand.Rand, n int) [][]byte {
	t.Helper()
	mem, err := m.Guest(n*pageSize, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmap(mem); err != nil {
			t.Error(err)
		}
	})
	out := make([][]byte, n)
	for i := range out {
		p := mem[i*pageSize:][:pageSize]
		switch rng.IntN(8) {
		case 0:
			for k := range p {
				p[k] = byte(rng.Uint32())
			}
		default:
			line := fmt.Sprintf("page %d of a guest, line %d; ", rng.IntN(1000), rng.IntN(10))
			for k := 0; k < pageSize; {
				k += copy(p[k:], line)
				p[rng.IntN(pageSize)] = byte(rng.Uint32())
			}
		}
		out[i] = p
	}
	return out
}

func whole(ps [][]byte) []byte { return ps[0][: len(ps)*pageSize : len(ps)*pageSize] }

// rig is a machine, a device and a channel on it.
type rig struct {
	m  *iaamodel.Machine
	d  *iaa.Device
	ch *hybrid.Channel
}

func newRig(t *testing.T, mc iaamodel.Config, cfg hybrid.Config, edit func(*iaa.Options)) *rig {
	t.Helper()
	m, err := iaamodel.New(t.TempDir(), mc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Close()
		for _, v := range m.Violations() {
			t.Errorf("violation: %s", v)
		}
	})
	opts := m.Options()
	opts.JobTimeout = 10 * time.Second
	if edit != nil {
		edit(&opts)
	}
	d, err := iaa.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("device: %v", err)
		}
	})
	return &rig{m, d, channel(t, d, cfg)}
}

func channel(t *testing.T, d *iaa.Device, cfg hybrid.Config) *hybrid.Channel {
	t.Helper()
	cfg.Pages, cfg.PageSize = packetPages, pageSize
	if cfg.Codec == nil {
		cfg.Codec = newCodec(t)
	}
	ch, err := hybrid.NewChannel(d, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ch.Close(context.Background()); err != nil {
			t.Errorf("channel: %v", err)
		}
	})
	return ch
}

func register(t *testing.T, d *iaa.Device, mem []byte) {
	t.Helper()
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Unregister(mem); err != nil {
			t.Error(err)
		}
	})
}

// compressAll sends packets through a channel, overlapped, and returns a stream
// for each page, or nil.
func compressAll(t *testing.T, ch *hybrid.Channel, ps [][]byte) [][]byte {
	t.Helper()
	var out [][]byte
	finish := func(p *hybrid.Packet) {
		if err := p.Finish(t.Context()); err != nil {
			t.Fatalf("Finish: %v", err)
		}
		for _, o := range p.Outputs() {
			if o == nil {
				out = append(out, nil)
				continue
			}
			out = append(out, bytes.Clone(o))
		}
		p.Release()
	}
	var before *hybrid.Packet
	for i := 0; i < len(ps); i += packetPages {
		p, err := ch.Compress(ps[i:min(i+packetPages, len(ps))])
		if err != nil {
			t.Fatalf("Compress: %v", err)
		}
		if before != nil {
			finish(before)
		}
		before = p
	}
	finish(before)
	return out
}

// checkStreams inflates every stream with the codec.
func checkStreams(t *testing.T, streams, ps [][]byte) {
	t.Helper()
	c := newCodec(t)
	got := make([]byte, pageSize)
	raw := 0
	for i, s := range streams {
		if s == nil {
			raw++
			continue
		}
		if err := c.Inflate(got, s); err != nil || !bytes.Equal(got, ps[i]) {
			t.Fatalf("page %d: wrong bytes, error %v", i, err)
		}
	}
	if len(streams) != len(ps) || raw == 0 || raw > len(ps)/2 {
		t.Errorf("%d streams for %d pages, %d raw", len(streams), len(ps), raw)
	}
}

// inflateAll inflates streams to dsts, overlapped.
func inflateAll(t *testing.T, ch *hybrid.Channel, srcs, dsts [][]byte) error {
	t.Helper()
	var before *hybrid.Packet
	finish := func(p *hybrid.Packet) error {
		if err := p.Finish(t.Context()); err != nil {
			return err
		}
		p.Release()
		return nil
	}
	for i := 0; i < len(srcs); i += packetPages {
		end := min(i+packetPages, len(srcs))
		p, err := ch.Inflate(srcs[i:end], dsts[i:end])
		if err != nil {
			return err
		}
		if before != nil {
			if err := finish(before); err != nil {
				return err
			}
		}
		before = p
	}
	return finish(before)
}

func TestChannel_BothDirections(t *testing.T) {
	for _, cpu := range []float64{0, 0.3, 1} {
		t.Run(fmt.Sprintf("cpu=%v", cpu), func(t *testing.T) {
			r := newRig(t, iaamodel.Uniform(1, nil), hybrid.Config{CPU: cpu}, nil)
			ps := pages(t, r.m, rand.New(rand.NewPCG(1, 1)), 5*packetPages+17)
			register(t, r.d, whole(ps))
			streams := compressAll(t, r.ch, ps)
			checkStreams(t, streams, ps)
			st := r.ch.Stats()
			if total := st.Hardware + st.Software; total != int64(len(ps)) || len(st.Fallback) != 0 {
				t.Errorf("stats: %+v for %d pages", st, len(ps))
			}
			if most := int64(cpu * float64(len(ps))); st.Software > most {
				t.Errorf("processor took %d of %d pages, allowed are %d", st.Software, len(ps), most)
			}

			var srcs, want [][]byte
			for i, s := range streams {
				if s != nil {
					srcs, want = append(srcs, s), append(want, ps[i])
				}
			}
			dsts := pages(t, r.m, rand.New(rand.NewPCG(9, 9)), len(srcs))
			register(t, r.d, whole(dsts))
			if err := inflateAll(t, r.ch, srcs, dsts); err != nil {
				t.Fatal(err)
			}
			for i := range dsts {
				if !bytes.Equal(dsts[i], want[i]) {
					t.Fatalf("page %d: wrong bytes", i)
				}
			}
		})
	}
}

func TestChannel_WithoutADevice(t *testing.T) {
	m, err := iaamodel.New(t.TempDir(), iaamodel.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ch := channel(t, nil, hybrid.Config{})
	ps := pages(t, m, rand.New(rand.NewPCG(1, 2)), 300)
	checkStreams(t, compressAll(t, ch, ps), ps)
	if st := ch.Stats(); st.Fallback["unavailable"] != 300 || st.Hardware != 0 || !ch.Software() {
		t.Errorf("stats: %+v", st)
	}
	_, err = hybrid.NewChannel(nil, hybrid.Config{Pages: 1, PageSize: pageSize, Codec: newCodec(t), Require: true})
	if !errors.Is(err, iaa.ErrUnavailable) {
		t.Errorf("Require without a device: %v, want ErrUnavailable", err)
	}
}
