package deflate

import "encoding/binary"

// outSlack is the room kept behind the output for whole-word stores.
const outSlack = 64

// bitWriter collects a stream, least significant bit first. Its buffer has room for the
// longest stream that an encoder emits (every literal nine bits long), so no write
// needs a check.
type bitWriter struct {
	acc   uint64 // pending bits
	count uint   // how many; at most 7 after put
	n     int    // whole bytes written
	buf   [MaxPageSize + MaxPageSize/8 + outSlack]byte
}

func (w *bitWriter) reset() { w.acc, w.count, w.n = 0, 0, 0 }

// put appends the low count bits of v, at most 56, whose other bits are zero.
func (w *bitWriter) put(v uint64, count uint) {
	w.acc |= v << w.count
	w.count += count
	binary.LittleEndian.PutUint64(w.buf[w.n:], w.acc)
	w.n += int(w.count >> 3)
	w.acc >>= w.count &^ 7
	w.count &= 7
}

// finish pads the last byte with zero bits.
func (w *bitWriter) finish() {
	if w.count > 0 {
		w.buf[w.n] = byte(w.acc)
		w.n++
		w.acc, w.count = 0, 0
	}
}

func (w *bitWriter) len() int      { return w.n }
func (w *bitWriter) bytes() []byte { return w.buf[:w.n] }
