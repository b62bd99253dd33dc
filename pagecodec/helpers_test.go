package pagecodec_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/pagecodec"
)

// noDevice returns the options of a machine without a device.
func noDevice(t testing.TB) iaa.Options {
	return iaa.Options{SysfsRoot: t.TempDir(), DevRoot: t.TempDir()}
}

// modelled returns an accelerator on a model of two devices, and fails the test if the driver misuses them.
func modelled(t testing.TB, opts pagecodec.Options) (*pagecodec.Accelerator, *iaamodel.Machine) {
	t.Helper()
	cfg := iaamodel.Uniform(2, nil)
	cfg.Mapped = true
	m, err := iaamodel.New(t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	opts.Policy, opts.Device = pagecodec.Require, m.Options()
	acc := pagecodec.NewAccelerator(opts)
	t.Cleanup(func() {
		if err := acc.Close(); err != nil {
			t.Errorf("closing the accelerator: %v", err)
		}
		if v := m.Violations(); len(v) > 0 {
			t.Errorf("the driver misused the model: %v", v)
		}
	})
	return acc, m
}

// forImplementations runs f with software and with the device.
func forImplementations(t *testing.T, f func(t *testing.T, acc *pagecodec.Accelerator)) {
	t.Run("software", func(t *testing.T) { f(t, nil) })
	for name, opts := range map[string]pagecodec.Options{"device": {}, "device and processor": {CPU: 0.5}, "device, bounced": {Bounce: true}} {
		t.Run(name, func(t *testing.T) {
			acc, _ := modelled(t, opts)
			f(t, acc)
			if s, ok := acc.Stats(); !ok || s.Device.Compressed+s.Device.Inflated == 0 {
				t.Errorf("the device processed no page: %+v", s)
			}
		})
	}
}

func newEncoder(t testing.TB, acc *pagecodec.Accelerator, pageSize int, mode deflate.Mode) pagecodec.Encoder {
	t.Helper()
	e, err := acc.NewEncoder(pageSize, mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func newDecoder(t testing.TB, acc *pagecodec.Accelerator, pageSize int) pagecodec.Decoder {
	t.Helper()
	d, err := acc.NewDecoder(pageSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// isRandom reports whether page i of makePages does not shrink.
func isRandom(i int) bool { return i%4 == 1 }

// makePages returns pages of text, of random bytes, and pages that are nearly zero.
func makePages(seed uint64, pageSize, n int) [][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	pages := make([][]byte, n)
	for i := range pages {
		p := make([]byte, pageSize)
		switch {
		case isRandom(i):
			for at := 0; at < pageSize; at += 8 {
				binary.LittleEndian.PutUint64(p[at:], r.Uint64())
			}
		case i%4 == 3:
			p[r.IntN(pageSize)] = 1
		default:
			for at := 0; at < pageSize; {
				at += copy(p[at:], fmt.Sprintf("line %d of page %d; ", r.IntN(100), i))
			}
		}
		pages[i] = p
	}
	return pages
}

// batch holds deflated pages in the form that a Decoder takes.
type batch struct {
	lengths []uint32
	data    []byte
}

func (b *batch) add(stream []byte) {
	b.lengths, b.data = append(b.lengths, uint32(len(stream))), append(b.data, stream...)
}

// collect returns the streams of the last finished batch.
func collect(e pagecodec.Encoder, pageSize, n int) *batch {
	b := new(batch)
	room := make([]byte, pageSize-1)
	for i := range n {
		b.add(e.Stream(i, room))
	}
	return b
}

// deflated deflates pages in software.
func deflated(t testing.TB, pages [][]byte) *batch {
	t.Helper()
	pageSize := len(pages[0])
	e := newEncoder(t, nil, pageSize, deflate.Fast)
	if err := e.Begin(pages); err != nil {
		t.Fatal(err)
	}
	if err := e.Finish(); err != nil {
		t.Fatal(err)
	}
	return collect(e, pageSize, len(pages))
}

func blank(pageSize, n int) [][]byte {
	pages := make([][]byte, n)
	for i := range pages {
		pages[i] = make([]byte, pageSize)
	}
	return pages
}

var pageSizes = []int{guest.MinPageSize, 4 << 10, guest.MaxPageSize}
