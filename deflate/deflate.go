package deflate

// Mode is how much work an [Encoder] does for a small stream.
type Mode uint8

const (
	// Fast uses one pass and the fixed Huffman code.
	Fast Mode = iota
	// Dense searches a little longer for matches and builds a Huffman code for each
	// page.
	Dense
)

// String returns "fast" or "dense".
func (m Mode) String() string {
	if m == Dense {
		return "dense"
	}
	return "fast"
}

// MaxPageSize is the size in bytes of the largest page that Encoder and Decoder accept.
const MaxPageSize = 64 << 10

// Encoder compresses pages. It holds reusable state and is for use by one goroutine at
// a time. Make one with [NewEncoder].
type Encoder struct {
	match matcher // the first, see there
	fast  fastCoder
	dense denseCoder
	out   bitWriter

	mode     Mode
	routines *routines
}

// NewEncoder returns an Encoder for the given mode.
func NewEncoder(mode Mode) *Encoder {
	return &Encoder{mode: mode, routines: &active.Load().routines}
}

// Deflate writes page as one raw deflate stream into dst and returns the stream's
// length in bytes, or 0 if the stream does not fit. It never writes beyond len(dst). A
// page that does not shrink becomes stored blocks, five bytes longer than the page (ten
// at MaxPageSize). To keep such a page raw instead, pass a dst of len(page)-1 bytes,
// which also lets the encoder stop early.
//
// For a page that is empty or longer than [MaxPageSize], Deflate returns 0. dst and
// page must not overlap.
func (e *Encoder) Deflate(dst, page []byte) int {
	if len(page) == 0 || len(page) > MaxPageSize {
		return 0
	}
	m := &e.match
	m.load(page)
	w := &e.out
	w.reset()
	if e.mode == Dense {
		e.dense.encode(e.routines, w, m, min(len(dst), storedSize(len(page))-1))
	} else {
		e.fast.limit = min(len(dst), storedSize(len(page)))
		e.routines.fast(e)
	}
	if n := w.len(); n > 0 && n <= storedSize(len(page)) {
		if n > len(dst) {
			return 0
		}
		return copy(dst, w.bytes())
	}
	return putStored(dst, m.page())
}
