package deflate

import "math/bits"

// BitWriter appends bits to a buffer, the first bit in the lowest position, as deflate
// requires. It never writes beyond the buffer: Overflow reports that bits were lost.
// The zero value has no room.
type BitWriter struct {
	buf      []byte
	n        int // whole bytes written
	acc      uint64
	accBits  uint
	overflow bool
}

// NewBitWriter writes to buf from its start.
func NewBitWriter(buf []byte) *BitWriter { return &BitWriter{buf: buf} }

// Bits appends the n low bits of v, lowest first; n is at most 32.
func (w *BitWriter) Bits(v uint32, n uint) {
	w.acc |= uint64(v) << w.accBits
	w.accBits += n
	for w.accBits >= 8 {
		w.put(byte(w.acc))
		w.acc >>= 8
		w.accBits -= 8
	}
}

// Code appends a Huffman code of n bits, most significant bit first.
func (w *BitWriter) Code(code uint32, n uint) {
	if n > 0 {
		w.Bits(bits.Reverse32(code)>>(32-n), n)
	}
}

func (w *BitWriter) put(b byte) {
	if w.n >= len(w.buf) {
		w.overflow = true
		return
	}
	w.buf[w.n] = b
	w.n++
}

// Flush writes the last bits, padded to a byte, and returns the number of bits
// written before the padding.
func (w *BitWriter) Flush() int {
	total := 8*w.n + int(w.accBits)
	if w.accBits > 0 {
		w.put(byte(w.acc))
		w.acc, w.accBits = 0, 0
	}
	return total
}

// Len returns the whole bytes written.
func (w *BitWriter) Len() int { return w.n }

// Overflow reports whether the buffer was too small.
func (w *BitWriter) Overflow() bool { return w.overflow }
