package snapshot

import (
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"slices"
)

// The index object consists of segments, a directory of the segments, and a footer of
// 64 bytes. Section 5 of docs/snapshot-format.md specifies it.

// indexFormat has what differs between the versions of the index.
type indexFormat struct {
	version    int
	magic      string
	segmentLen int // bytes of a line of the directory
	extentLen  int // bytes of a line of the extent table
}

var indexFormats = map[int]*indexFormat{
	version1: {version: version1, magic: "VMFIDX1\n", segmentLen: 32, extentLen: 32},
	version2: {version: version2, magic: "VMFIDX2\n", segmentLen: 64, extentLen: 64},
}

const (
	footerLen    = 64
	tableExtents = 1024 // extents in a segment of the extent table

	segmentExtents = 1
	segmentSparse  = 2
	segmentDense   = 3

	sparseEntryLen = 2 + 8
	rankPages      = 512
	// sparseMax is the largest number of pages of a sparse chunk. A dense chunk
	// needs no search. With more pages than this it takes little more than 12
	// bytes for each page. The rest up to 16 bytes covers entries of the extent
	// table for extents that are mostly superseded.
	sparseMax = 1<<11 - 1
)

// segment is an entry of the directory.
type segment struct {
	offset uint64
	first  uint32 // number of the chunk in its block, or of the part of the extent table
	length uint32
	count  uint32
	sum    sum // of its bytes
	block  uint16
	kind   uint8
}

func (s *segment) append(b []byte) []byte {
	be := binary.BigEndian
	b = append(b, s.kind, 0)
	b = be.AppendUint16(b, s.block)
	b = be.AppendUint32(b, s.first)
	b = be.AppendUint64(b, s.offset)
	b = be.AppendUint32(b, s.length)
	b = be.AppendUint32(b, s.count)
	b = be.AppendUint64(b, 0)
	return append(b, s.sum[:]...)
}

func (f *indexFormat) parseSegment(b []byte) segment {
	be := binary.BigEndian
	s := segment{
		kind: b[0], block: be.Uint16(b[2:]), first: be.Uint32(b[4:]), offset: be.Uint64(b[8:]),
		length: be.Uint32(b[16:]), count: be.Uint32(b[20:]),
	}
	if f.version == version1 {
		s.sum = crcSum(be.Uint32(b[24:]))
	} else {
		copy(s.sum[:], b[32:])
	}
	return s
}

func (e *extent) append(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, e.object)
	b = be.AppendUint16(b, e.block)
	b = append(b, byte(e.codec), e.count)
	b = be.AppendUint64(b, e.offset)
	b = be.AppendUint32(b, e.length)
	b = be.AppendUint16(b, e.key)
	b = append(b, make([]byte, 10)...)
	return append(b, e.sum[:]...)
}

func (f *indexFormat) parseExtent(b []byte) extent {
	be := binary.BigEndian
	e := extent{
		object: be.Uint32(b), block: be.Uint16(b[4:]), codec: codec(b[6]), count: b[7],
		offset: be.Uint64(b[8:]), length: be.Uint32(b[16:]),
	}
	if f.version == version1 {
		e.sum = crcSum(be.Uint32(b[20:]))
	} else {
		e.key = be.Uint16(b[20:])
		copy(e.sum[:], b[32:])
	}
	return e
}

// indexWriter writes an index of the newest version from start to end.
type indexWriter struct {
	w       func(p []byte) error
	dir     []segment
	offset  uint64
	extents uint64
	pages   uint64
	buf     []byte
}

func (w *indexWriter) segment(s segment, b []byte) error {
	s.offset, s.length, s.sum = w.offset, uint32(len(b)), sumOf(newestVersion, b)
	w.dir = append(w.dir, s)
	w.offset += uint64(len(b))
	return w.w(b)
}

// extentTable writes the extent table.
func (w *indexWriter) extentTable(extents []extent) error {
	w.extents = uint64(len(extents))
	for first := 0; len(extents) > 0; first++ {
		n := min(tableExtents, len(extents))
		w.buf = w.buf[:0]
		for i := range extents[:n] {
			w.buf = extents[i].append(w.buf)
		}
		if err := w.segment(segment{kind: segmentExtents, first: uint32(first), count: uint32(n)}, w.buf); err != nil {
			return err
		}
		extents = extents[n:]
	}
	return nil
}

// chunk writes the entries of a chunk, which are in the order of pages. It writes
// nothing for an empty chunk.
func (w *indexWriter) chunk(block, n int, entries []entry) error {
	if len(entries) == 0 {
		return nil
	}
	w.pages += uint64(len(entries))
	s := segment{kind: segmentSparse, block: uint16(block), first: uint32(n), count: uint32(len(entries))}
	if len(entries) > sparseMax {
		s.kind = segmentDense
		w.buf = appendDense(w.buf[:0], entries)
	} else {
		w.buf = appendSparse(w.buf[:0], entries)
	}
	return w.segment(s, w.buf)
}

func appendSparse(b []byte, entries []entry) []byte {
	for _, e := range entries {
		b = binary.BigEndian.AppendUint16(b, uint16(e.page))
	}
	return appendLocations(b, entries)
}

func appendDense(b []byte, entries []entry) []byte {
	var bitmap [chunkPages / 8]byte
	for _, e := range entries {
		bitmap[e.page/8] |= 1 << (e.page % 8)
	}
	b = append(b, bitmap[:]...)
	rank := 0
	for i := 0; i < chunkPages; i += rankPages {
		b = binary.BigEndian.AppendUint16(b, uint16(rank))
		for _, c := range bitmap[i/8 : (i+rankPages)/8] {
			rank += bits.OnesCount8(c)
		}
	}
	return appendLocations(b, entries)
}

func appendLocations(b []byte, entries []entry) []byte {
	for _, e := range entries {
		b = binary.BigEndian.AppendUint64(b, uint64(e.loc))
	}
	return b
}

// finish writes the directory, a part at a time, and the footer. It returns the digest of
// both, which is that of the index.
func (w *indexWriter) finish() (digest string, err error) {
	h := newDigest(newestVersion)
	write := func(b []byte) error {
		h.Write(b)
		return w.w(b)
	}
	for lines := range slices.Chunk(w.dir, directoryLines) {
		w.buf = w.buf[:0]
		for i := range lines {
			w.buf = lines[i].append(w.buf)
		}
		if err := write(w.buf); err != nil {
			return "", err
		}
	}
	f, be := indexFormats[newestVersion], binary.BigEndian
	footer := append(make([]byte, 0, footerLen), f.magic...)
	footer = be.AppendUint32(footer, uint32(f.version))
	footer = be.AppendUint32(footer, uint32(len(w.dir)))
	footer = be.AppendUint64(footer, w.extents)
	footer = be.AppendUint64(footer, w.pages)
	footer = be.AppendUint64(footer, w.offset)
	footer = append(footer, make([]byte, footerLen-len(footer))...)
	if err := write(footer); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
