package iaa

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"
	"unsafe"

	"github.com/vmferry/vmferry/iaa/internal/deflate"
)

// FuzzHistogram: whatever a device writes as a histogram, the tables built from
// it are a prefix code and the header stays within the accumulator.
func FuzzHistogram(f *testing.F) {
	f.Add(make([]byte, HistogramSize))
	even := make([]byte, HistogramSize)
	for s := range deflate.NumLitLen {
		binary.LittleEndian.PutUint32(even[4*s:], 14)
	}
	f.Add(even)
	steep := make([]byte, HistogramSize)
	for s := range 12 {
		binary.LittleEndian.PutUint32(steep[4*s:], 1<<s/2)
		binary.LittleEndian.PutUint32(steep[HistogramDist+4*s:], 1<<s/8)
	}
	f.Add(steep)
	f.Fuzz(func(t *testing.T, histogram []byte) {
		if len(histogram) < HistogramSize {
			return
		}
		aecs := make([]byte, AECSSize)
		dynamic, err := writeDynamicAECS(aecs, histogram, 4096)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Fatalf("error of an unexpected kind: %v", err)
			}
			return
		}
		if bits := binary.LittleEndian.Uint32(aecs[AECSValidBits:]); dynamic && bits > 8*AECSAccumulated {
			t.Fatalf("%d valid bits", bits)
		}
		for _, table := range [][]byte{aecs[AECSLitLen:][:4*deflate.NumLitLen], aecs[AECSDist:][:4*deflate.NumDist]} {
			sum := 0
			for i := 0; i < len(table); i += 4 {
				e := binary.LittleEndian.Uint32(table[i:])
				n := e >> aecsLengthShift
				if n > deflate.MaxCodeBits || n > 0 && e&(1<<aecsLengthShift-1) >= 1<<n {
					t.Fatalf("entry %#x", e)
				}
				if n > 0 {
					sum += 1 << (deflate.MaxCodeBits - n)
				}
			}
			if sum > 1<<deflate.MaxCodeBits {
				t.Fatalf("oversubscribed code: %#x", sum)
			}
		}
	})
}

// hostile is a system whose device answers every job with a record of the
// fuzzer's making.
type hostile struct {
	*host
	regions [][]byte
	record  []byte
}

func (h *hostile) Instructions() Instructions { return Instructions{ENQCMD: true} }

func (h *hostile) Map(size int, populate bool) ([]byte, error) {
	mem, err := h.host.Map(size, populate)
	if err == nil {
		h.regions = append(h.regions, mem)
	}
	return mem, err
}

func (h *hostile) OpenQueue(string) (Node, error) { return hostileNode{h}, nil }

type hostileNode struct{ h *hostile }

func (n hostileNode) Map() (Portal, error)              { return n, nil }
func (n hostileNode) Write(d []Descriptor) (int, error) { return len(d), nil }
func (n hostileNode) Close() error                      { return nil }
func (n hostileNode) Store(int, *Descriptor)            {}

func (n hostileNode) Enqueue(_ int, d *Descriptor) bool {
	for _, mem := range n.h.regions {
		if base := address(mem); base <= d.Record && d.Record < base+uint64(len(mem)) {
			rec := recordAt(mem[d.Record-base:])
			raw := recordBytes(rec)
			copy(raw[4:], n.h.record[4:])
			rec.Store(Completion{Status(n.h.record[0]), Code(n.h.record[1]), n.h.record[2]})
			return true
		}
	}
	return false
}

// FuzzRecord: whatever a device writes to a completion record, a job ends, with a
// result within its buffers or an error of a known cause, and its slot comes back.
func FuzzRecord(f *testing.F) {
	seed := func(status Status, code Code, used, out uint32) {
		raw := make([]byte, DescriptorSize+1)
		r := (*Record)(unsafe.Pointer(&raw[:DescriptorSize][0]))
		r.BytesCompleted, r.OutputSize = used, out
		r.Store(Completion{Status: status, Code: code})
		for op := range byte(3) {
			raw[DescriptorSize] = op
			f.Add(append([]byte(nil), raw...))
		}
	}
	seed(StatusSuccess, 0, 4096, 100)
	seed(StatusSuccess, 0, 4096, 4096)
	seed(StatusSuccess, 0, 1, 1<<31)
	seed(StatusAnalyticsError, CodeOutputOverflow, 0, 0)
	seed(StatusWriteFault, 0, 0, 0)
	seed(StatusFaultTimeout, 0, 0, 0)
	seed(0x77, 0xff, 1<<31, 1<<31)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) <= DescriptorSize || Status(data[0]) == StatusPending {
			return // a job that never completes is another test's
		}
		sys := &hostile{host: &host{start: time.Now()}, record: data}
		q, problem := openQueue(sys, QueueInfo{Name: "wq0.0", Device: "iax0", Mode: modeShared, Size: 8}, 1, false)
		if problem != nil {
			t.Fatal(problem)
		}
		d := &Device{opts: Options{System: sys}.withDefaults(), sys: sys, near: []*queue{q}, maxJob: 1 << 20, sessions: map[*Session]struct{}{}}
		control, err := sys.Map(controlSize, true)
		if err != nil {
			t.Fatal(err)
		}
		d.control = control
		s, err := d.NewSession(SessionConfig{Slots: 1, PageSize: osPage, Huffman: Huffman(data[DescriptorSize] % 2)})
		if err != nil {
			t.Fatal(err)
		}
		page := make([]byte, osPage)
		if data[DescriptorSize]%3 == 2 {
			err = s.SubmitInflate(0, page[:100], page)
		} else {
			err = s.SubmitCompress(0, page)
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Wait(context.Background(), 0)
		if err == nil && !r.Overflow && (len(r.Output) == 0 || len(r.Output) > osPage) {
			t.Fatalf("result of %d bytes", len(r.Output))
		}
		if err != nil && Cause(err) == "other" {
			t.Fatalf("error of no known cause: %v", err)
		}
		if err := s.SubmitCompress(0, page); err != nil {
			t.Fatalf("slot not free: %v", err)
		}
		if err := errors.Join(s.Close(context.Background()), d.Close()); err != nil {
			t.Fatal(err)
		}
	})
}
