package snapshot

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/deflate"
)

// decoder decodes extents. It belongs to one goroutine.
type decoder struct {
	pageSize int
	inflate  *deflate.Decoder
	zstd     *zstd.Decoder
	offsets  []int
	raw      []byte
}

func newDecoder(pageSize int) *decoder {
	return &decoder{pageSize: pageSize, inflate: deflate.NewDecoder()}
}

// extentData is an extent whose checksum was verified.
type extentData struct {
	count   int
	codec   codec
	payload []byte
	// starts has count+1 offsets into payload, if the pages are deflated.
	starts []int
}

// parse checks the form of an extent's payload. It decodes zstd.
func (d *decoder) parse(e extent, payload []byte) (extentData, error) {
	x := extentData{count: int(e.count), codec: e.codec, payload: payload}
	switch e.codec {
	case codecRaw:
		if len(payload) != x.count*d.pageSize {
			return x, fmt.Errorf("%d bytes for %d raw pages", len(payload), x.count)
		}
	case codecDeflate:
		if len(payload) < 4*x.count {
			return x, fmt.Errorf("%d bytes are too short for the lengths of %d pages", len(payload), x.count)
		}
		d.offsets = append(d.offsets[:0], 4*x.count)
		at := 4 * x.count
		for i := range x.count {
			n := binary.BigEndian.Uint32(payload[4*i:])
			if n == 0 || n > uint32(d.pageSize) {
				return x, fmt.Errorf("slot %d has %d bytes (want 1 to %d)", i, n, d.pageSize)
			}
			at += int(n)
			d.offsets = append(d.offsets, at)
		}
		if at != len(payload) {
			return x, fmt.Errorf("lengths and slots have %d bytes in total, but the extent has %d", at, len(payload))
		}
		x.starts = d.offsets
	case codecZstd:
		raw, err := d.unzstd(payload, x.count*d.pageSize)
		if err != nil {
			return x, err
		}
		x.payload, x.codec = raw, codecRaw
	}
	return x, nil
}

func (d *decoder) unzstd(frame []byte, size int) ([]byte, error) {
	if d.zstd == nil {
		r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(8<<20))
		if err != nil {
			return nil, err
		}
		d.zstd = r
	}
	// The frame header has the content size. A frame of another size is not decoded.
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		return nil, err
	}
	if !h.HasFCS || h.FrameContentSize != uint64(size) {
		return nil, fmt.Errorf("a zstd frame of %d bytes (want %d)", h.FrameContentSize, size)
	}
	raw, err := d.zstd.DecodeAll(frame, d.raw[:0])
	if err != nil {
		return nil, err
	}
	d.raw = raw
	if len(raw) != size {
		return nil, fmt.Errorf("%d bytes of pages (want %d)", len(raw), size)
	}
	return raw, nil
}

// deflated returns a slot in the form guest.Deflated: a raw deflate stream, or the page
// itself if it has exactly page-size bytes.
func (x *extentData) deflated(slot int) []byte { return x.payload[x.starts[slot]:x.starts[slot+1]] }

// page returns the page of a slot. The result is dst, or a part of the payload.
func (d *decoder) page(x *extentData, slot int, dst []byte) ([]byte, error) {
	if x.codec == codecRaw {
		return x.payload[slot*d.pageSize : (slot+1)*d.pageSize], nil
	}
	data := x.deflated(slot)
	if len(data) == d.pageSize {
		return data, nil
	}
	if err := d.inflate.Inflate(dst, data); err != nil {
		return nil, fmt.Errorf("slot %d: %w", slot, err)
	}
	return dst, nil
}

func (d *decoder) close() {
	if d.zstd != nil {
		d.zstd.Close()
	}
}

// zstdEncoders pools encoders, because each takes megabytes of memory.
var zstdEncoders = sync.Pool{New: func() any {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(512<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // cannot happen: the options are constants
	}
	return w
}}
