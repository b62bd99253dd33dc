package deflate

import (
	"errors"
	"fmt"
)

// ErrCorrupt is wrapped by every error of [Decoder.Inflate]: the stream is not valid
// deflate, or does not give a page of the requested length.
var ErrCorrupt = errors.New("deflate: corrupt page")

// decodeSlack is how far a decoding loop may write behind the page before it checks: a
// few literals, a match, and the rest of the match's last vector.
const decodeSlack = 8 + maxMatch + 64

// Decoder expands pages. It holds reusable state and is for use by one goroutine at a
// time. Make one with [NewDecoder].
type Decoder struct {
	routines *routines

	in   bitReader
	n    int // bytes of the page so far
	size int // bytes it must have
	code blockCode
	lens lengthReader
	// out holds the page until it is complete and valid.
	out pageBuffer
}

// pageBuffer holds a page and what a decoding loop writes behind it.
type pageBuffer [MaxPageSize + decodeSlack]byte

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder {
	return &Decoder{routines: &active.Load().routines}
}

// status is how a decoding loop ends.
type status int

const (
	statusEnd      status = iota // end of block
	statusInput                  // the reader must be refilled
	statusLong                   // a code longer than the tables comes next
	statusFull                   // more bytes than the page has
	statusSymbol                 // an invalid bit pattern or symbol
	statusDistance               // a match from before the page's start
)

// Inflate fills dst, of at most [MaxPageSize] bytes, exactly from the one raw deflate
// stream that src holds. Otherwise the error wraps [ErrCorrupt] and gives the position:
// a stream of fewer or more bytes, bytes behind the stream, a code that is
// over-subscribed or incomplete, a match from before the start. dst is written only on
// success. src and dst must not overlap.
func (d *Decoder) Inflate(dst, src []byte) error {
	if len(dst) > MaxPageSize {
		return fmt.Errorf("%w: a page of %d bytes (want at most %d)", ErrCorrupt, len(dst), MaxPageSize)
	}
	d.in.reset(src)
	d.n, d.size = 0, len(dst)
	if problem := d.blocks(); problem != "" {
		return fmt.Errorf("%w: %s at bit %d of %d, byte %d of %d of the page",
			ErrCorrupt, problem, min(d.in.consumed(), 8*len(src)), 8*len(src), min(d.n, d.size), d.size)
	}
	copy(dst, d.out[:d.n])
	return nil
}

// blocks reads all blocks. It returns what is wrong with them, or an empty string.
func (d *Decoder) blocks() string {
	for {
		head := d.in.take(3)
		if d.in.overrun() {
			return "the stream ends within a block header"
		}
		var problem string
		switch head >> 1 {
		case blockStored >> 1:
			problem = d.stored()
		case blockFixed >> 1:
			problem = d.compressed(fixedCode)
		case blockDynamic >> 1:
			if problem = d.lens.read(d.routines, &d.in, &d.code); problem == "" {
				problem = d.compressed(&d.code)
			}
		default:
			problem = "reserved block type"
		}
		if problem != "" {
			return problem
		}
		if head&blockFinal != 0 {
			break
		}
	}
	if left := d.in.left(); left > 0 {
		return fmt.Sprintf("%d bytes follow the stream", left)
	}
	if d.n < d.size {
		return "the stream ends short of the page"
	}
	return ""
}

// stored copies a stored block.
func (d *Decoder) stored() string {
	d.in.align()
	n, complement := d.in.take(16), d.in.take(16)
	if d.in.overrun() {
		return "the stream ends within a stored block's header"
	}
	if n != ^complement&0xffff {
		return "stored block's length does not match its complement"
	}
	if int(n) > d.size-d.n {
		return "stored block longer than the page"
	}
	if !d.in.bytes(d.out[d.n : d.n+int(n)]) {
		return "the stream ends within a stored block"
	}
	d.n += int(n)
	return ""
}

// compressed decodes the rest of a fixed or dynamic block.
func (d *Decoder) compressed(c *blockCode) string {
	for {
		switch s := d.routines.decode(d, c); s {
		case statusInput:
			if !d.in.more() {
				return "the stream ends within a block"
			}
		case statusLong:
			if s, done := d.decodeLong(c); s != statusEnd {
				return problemOf(s)
			} else if done {
				return d.endOfBlock()
			}
		case statusEnd:
			return d.endOfBlock()
		default:
			if d.in.overrun() {
				return "the stream ends within a block"
			}
			return problemOf(s)
		}
	}
}

func (d *Decoder) endOfBlock() string {
	if d.n > d.size {
		return problemOf(statusFull)
	}
	if d.in.overrun() {
		return "the stream ends within a block"
	}
	return ""
}

func problemOf(s status) string {
	switch s {
	case statusFull:
		return "the stream is longer than the page"
	case statusDistance:
		return "match from before the start of the page"
	}
	return "bit pattern without meaning"
}

// decodeLong decodes one literal or one match bit by bit, for codes longer than the
// tables. done reports the end of the block.
func (d *Decoder) decodeLong(c *blockCode) (s status, done bool) {
	if !d.in.ensure() {
		return statusSymbol, false
	}
	e, ok := c.litLen.next(&d.in)
	switch {
	case !ok:
		return statusSymbol, false
	case e&entryLiteral != 0:
		d.out[d.n] = byte(e >> entryValue)
		d.n++
		return statusEnd, false
	case e&entrySpecial != 0:
		return statusEnd, true
	}
	length := int(e>>entryValue) + int(d.in.take(uint(e)&entryCount))
	f, ok := c.distance.next(&d.in)
	if !ok {
		return statusSymbol, false
	}
	distance := int(f>>entryValue) + int(d.in.take(uint(f)&entryCount))
	return d.copyMatch(length, distance), false
}

// copyMatch appends length bytes from distance bytes back.
func (d *Decoder) copyMatch(length, distance int) status {
	if distance > d.n {
		return statusDistance
	}
	if distance >= 16 {
		copyFar(&d.out, d.n, length, distance)
	} else {
		copyNear(&d.out, d.n, length, distance)
	}
	d.n += length
	return statusEnd
}
