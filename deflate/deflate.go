package deflate

// Mode says how hard an [Encoder] tries.
type Mode uint8

const (
	// Fast spends one pass and the fixed Huffman code.
	Fast Mode = iota
	// Dense looks a little further for matches and builds a Huffman code for
	// each page.
	Dense
)

// String returns "fast" or "dense".
func (m Mode) String() string {
	if m == Dense {
		return "dense"
	}
	return "fast"
}

// MaxPageSize is the longest page in bytes that either direction accepts.
const MaxPageSize = 64 << 10

// Encoder compresses pages. It holds reusable state, so it serves one
// goroutine at a time; make one with [NewEncoder].
type Encoder struct {
	mode  Mode
	match matcher
	dense denseCoder
	out   bitWriter
}

// NewEncoder returns an Encoder for the given mode.
func NewEncoder(mode Mode) *Encoder {
	return &Encoder{mode: mode}
}

// Deflate writes page as one raw deflate stream into dst and returns the
// stream's length in bytes, or 0 when the stream would not fit. Nothing is
// ever written beyond len(dst). A page that shrinks not at all is emitted as
// stored blocks, five bytes longer than itself (ten at MaxPageSize), so callers
// who would rather keep such a page raw pass a dst of len(page)-1 bytes, which
// also lets the encoder give up early.
//
// A page that is empty or longer than [MaxPageSize] yields 0. dst and page may
// not overlap.
func (e *Encoder) Deflate(dst, page []byte) int {
	if len(page) == 0 || len(page) > MaxPageSize {
		return 0
	}
	m := &e.match
	m.load(page)
	m.find(e.mode == Dense)
	w := &e.out
	w.reset()
	if e.mode == Dense {
		e.dense.encode(w, m, min(len(dst), storedSize(len(page))-1))
	} else if !m.incompressible() {
		encodeFixed(w, m.tokens())
	}
	if n := w.len(); n > 0 && n <= storedSize(len(page)) {
		if n > len(dst) {
			return 0
		}
		return copy(dst, w.bytes())
	}
	return putStored(dst, m.page())
}
