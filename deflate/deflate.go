package deflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
)

// Mode is the trade between speed and size.
type Mode uint8

const (
	// Fast spends as little time as it can.
	Fast Mode = iota
	// Dense spends several times as much for smaller pages.
	Dense
)

func (m Mode) String() string {
	if m == Dense {
		return "dense"
	}
	return "fast"
}

// MaxPageSize is the largest page that an Encoder or a Decoder takes.
const MaxPageSize = 64 << 10

// ErrCorrupt is wrapped by every error of Inflate.
var ErrCorrupt = errors.New("deflate: corrupt page")

// Encoder compresses pages. It belongs to one goroutine at a time.
type Encoder struct {
	w   *flate.Writer
	out limitedBuffer
}

// NewEncoder returns an encoder for the mode.
func NewEncoder(mode Mode) *Encoder {
	level := 1
	if mode == Dense {
		level = 5
	}
	w, err := flate.NewWriter(io.Discard, level)
	if err != nil {
		panic(err) // both levels are constants that flate knows
	}
	return &Encoder{w: w}
}

// Deflate writes page to dst as one raw deflate stream and returns its length,
// or 0 if the stream does not fit into dst. Callers that keep pages that do
// not shrink as they are pass a dst of len(page)-1 bytes.
func (e *Encoder) Deflate(dst, page []byte) int {
	e.out = limitedBuffer{dst: dst}
	e.w.Reset(&e.out)
	if _, err := e.w.Write(page); err != nil {
		return 0
	}
	if err := e.w.Close(); err != nil {
		return 0
	}
	return e.out.n
}

var errFull = errors.New("deflate: output full")

type limitedBuffer struct {
	dst []byte
	n   int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > len(b.dst)-b.n {
		return 0, errFull
	}
	b.n += copy(b.dst[b.n:], p)
	return len(p), nil
}

// Decoder inflates pages. It belongs to one goroutine at a time.
type Decoder struct {
	r     io.ReadCloser
	in    bytes.Reader
	extra [1]byte
}

// NewDecoder returns a ready decoder.
func NewDecoder() *Decoder {
	d := new(Decoder)
	d.r = flate.NewReader(&d.in)
	return d
}

// Inflate fills dst exactly with what the raw deflate stream src holds. A
// stream that holds less or more, or is followed by other bytes, is an error
// that wraps ErrCorrupt.
func (d *Decoder) Inflate(dst, src []byte) error {
	d.in.Reset(src)
	if err := d.r.(flate.Resetter).Reset(&d.in, nil); err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	n, err := io.ReadFull(d.r, dst)
	if err != nil {
		return fmt.Errorf("%w: %d of %d bytes, then: %v", ErrCorrupt, n, len(dst), err)
	}
	if n, err := d.r.Read(d.extra[:]); n != 0 || err != io.EOF {
		return fmt.Errorf("%w: more than %d bytes", ErrCorrupt, len(dst))
	}
	if d.in.Len() != 0 {
		return fmt.Errorf("%w: %d bytes follow the stream", ErrCorrupt, d.in.Len())
	}
	return nil
}

// IsZero reports whether every byte of page is zero.
func IsZero(page []byte) bool {
	for len(page) >= 32 {
		if binary.NativeEndian.Uint64(page)|binary.NativeEndian.Uint64(page[8:])|
			binary.NativeEndian.Uint64(page[16:])|binary.NativeEndian.Uint64(page[24:]) != 0 {
			return false
		}
		page = page[32:]
	}
	for _, b := range page {
		if b != 0 {
			return false
		}
	}
	return true
}
