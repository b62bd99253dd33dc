package snapshot

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sort"

	"github.com/vmferry/vmferry/guest"
)

// The index object is segments, then a directory of them, then a footer of 64
// bytes. docs/snapshot-format.md section 5 is its description.

const (
	indexMagic   = "VMFIDX1\n"
	footerLen    = 64
	dirEntryLen  = 32
	extentLen    = 32
	tableExtents = 1024 // extents a segment of the extent table

	segmentExtents = 1
	segmentSparse  = 2
	segmentDense   = 3

	sparseEntryLen = 2 + 8
	rankPages      = 512
	// sparseMax is the most pages of a sparse chunk. A bitmap with ranks is
	// found in without a search; from here on it costs little more than 12
	// bytes a page, which leaves room below 16 for lines of the extent table
	// whose slots are mostly superseded.
	sparseMax = 1<<11 - 1
)

// segment is a line of the directory.
type segment struct {
	kind   uint8
	block  uint16
	first  uint32 // chunk of the block, or extent / tableExtents
	offset uint64
	length uint32
	count  uint32
	crc    uint32
}

func (s *segment) append(b []byte) []byte {
	be := binary.BigEndian
	b = append(b, s.kind, 0)
	b = be.AppendUint16(b, s.block)
	b = be.AppendUint32(b, s.first)
	b = be.AppendUint64(b, s.offset)
	b = be.AppendUint32(b, s.length)
	b = be.AppendUint32(b, s.count)
	b = be.AppendUint32(b, s.crc)
	return be.AppendUint32(b, 0)
}

func parseSegment(b []byte) segment {
	be := binary.BigEndian
	return segment{
		kind: b[0], block: be.Uint16(b[2:]), first: be.Uint32(b[4:]), offset: be.Uint64(b[8:]),
		length: be.Uint32(b[16:]), count: be.Uint32(b[20:]), crc: be.Uint32(b[24:]),
	}
}

func (e *extent) append(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, e.object)
	b = be.AppendUint16(b, e.block)
	b = append(b, byte(e.codec), e.count)
	b = be.AppendUint64(b, e.offset)
	b = be.AppendUint32(b, e.length)
	b = be.AppendUint32(b, e.crc)
	return be.AppendUint64(b, 0)
}

func parseExtent(b []byte) extent {
	be := binary.BigEndian
	return extent{
		object: be.Uint32(b), block: be.Uint16(b[4:]), codec: codec(b[6]), count: b[7],
		offset: be.Uint64(b[8:]), length: be.Uint32(b[16:]), crc: be.Uint32(b[20:]),
	}
}

// indexWriter writes an index from its start to its end.
type indexWriter struct {
	w       io.Writer
	dir     []segment
	offset  uint64
	extents uint64
	pages   uint64
	buf     []byte
}

func (w *indexWriter) segment(s segment, b []byte) error {
	s.offset, s.length, s.crc = w.offset, uint32(len(b)), checksum(b)
	w.dir = append(w.dir, s)
	w.offset += uint64(len(b))
	_, err := w.w.Write(b)
	return err
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

// chunk writes a chunk's entries, which are in the order of pages, if there
// are any.
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

// finish writes the directory and the footer.
func (w *indexWriter) finish() error {
	be := binary.BigEndian
	w.buf = w.buf[:0]
	for i := range w.dir {
		w.buf = w.dir[i].append(w.buf)
	}
	footer := append(make([]byte, 0, footerLen), indexMagic...)
	footer = be.AppendUint32(footer, formatVersion)
	footer = be.AppendUint32(footer, uint32(len(w.dir)))
	footer = be.AppendUint64(footer, w.extents)
	footer = be.AppendUint64(footer, w.pages)
	footer = be.AppendUint64(footer, w.offset)
	footer = be.AppendUint32(footer, checksum(w.buf))
	footer = append(footer, make([]byte, footerLen-4-len(footer))...)
	footer = be.AppendUint32(footer, checksum(footer))
	if _, err := w.w.Write(w.buf); err != nil {
		return err
	}
	_, err := w.w.Write(footer)
	return err
}

// index reads an index in ranges: the footer and the directory when it is
// opened, a segment when it is wanted.
type index struct {
	o       Object
	name    string
	layout  *guest.Layout
	objects []ObjectInfo // those of role pages
	extents uint64
	pages   uint64
	table   []segment            // of the extent table, in order
	chunks  []map[uint32]segment // by block
}

func openIndex(o Object, name string, layout *guest.Layout, objects []ObjectInfo) (*index, error) {
	be := binary.BigEndian
	x := &index{o: o, name: name, layout: layout, objects: objects}
	if o.Size() < footerLen {
		return nil, corrupt(name, "%d bytes do not hold a footer", o.Size())
	}
	footer, err := x.read(uint64(o.Size())-footerLen, footerLen)
	if err != nil {
		return nil, err
	}
	if string(footer[:8]) != indexMagic || be.Uint32(footer[8:]) != formatVersion {
		return nil, corrupt(name, "the footer begins with %q", footer[:12])
	}
	if checksum(footer[:footerLen-4]) != be.Uint32(footer[footerLen-4:]) {
		return nil, corrupt(name, "the footer's checksum is wrong")
	}
	count, dirAt := uint64(be.Uint32(footer[12:])), be.Uint64(footer[32:])
	x.extents, x.pages = be.Uint64(footer[16:]), be.Uint64(footer[24:])
	if want := uint64(o.Size()) - footerLen - count*dirEntryLen; count*dirEntryLen > uint64(o.Size())-footerLen || dirAt != want {
		return nil, corrupt(name, "a directory of %d segments at %d in %d bytes", count, dirAt, o.Size())
	}
	dir, err := x.read(dirAt, int(count*dirEntryLen))
	if err != nil {
		return nil, err
	}
	if checksum(dir) != be.Uint32(footer[40:]) {
		return nil, corrupt(name, "the directory's checksum is wrong")
	}
	return x, x.takeDirectory(dir, dirAt)
}

// takeDirectory checks the segments and sorts them in.
func (x *index) takeDirectory(dir []byte, end uint64) error {
	x.chunks = make([]map[uint32]segment, len(x.layout.Blocks))
	var extents, pages uint64
	for i := 0; len(dir) > 0; i, dir = i+1, dir[dirEntryLen:] {
		s := parseSegment(dir)
		var length uint64
		switch s.kind {
		case segmentExtents:
			length = uint64(s.count) * extentLen
			if s.count == 0 || s.count > tableExtents || int(s.first) != len(x.table) || extents%tableExtents != 0 {
				return corrupt(x.name, "directory line %d: %d extents as part %d of the table", i, s.count, s.first)
			}
			x.table = append(x.table, s)
			extents += uint64(s.count)
		case segmentSparse, segmentDense:
			if err := x.checkChunk(s); err != nil {
				return corrupt(x.name, "directory line %d: %v", i, err)
			}
			length = uint64(s.count) * sparseEntryLen
			if s.kind == segmentDense {
				length = chunkPages/8 + 2*chunkPages/rankPages + uint64(s.count)*8
			}
			if x.chunks[s.block] == nil {
				x.chunks[s.block] = map[uint32]segment{}
			}
			x.chunks[s.block][s.first] = s
			pages += uint64(s.count)
		default:
			return corrupt(x.name, "directory line %d: segment of kind %d", i, s.kind)
		}
		if uint64(s.length) != length || s.offset > end || length > end-s.offset {
			return corrupt(x.name, "directory line %d: %d bytes at %d (want %d bytes below %d)", i, s.length, s.offset, length, end)
		}
	}
	if extents != x.extents || pages != x.pages {
		return corrupt(x.name, "the directory has %d extents and %d pages, the footer %d and %d", extents, pages, x.extents, x.pages)
	}
	return nil
}

func (x *index) checkChunk(s segment) error {
	if int(s.block) >= len(x.layout.Blocks) {
		return fmt.Errorf("RAM block %d of %d", s.block, len(x.layout.Blocks))
	}
	if pages := x.layout.Pages(x.layout.Blocks[s.block]); uint64(s.first)*chunkPages >= pages || s.count == 0 || s.count > chunkPages {
		return fmt.Errorf("%d pages in chunk %d of a RAM block of %d pages", s.count, s.first, pages)
	}
	if _, twice := x.chunks[s.block][s.first]; twice {
		return fmt.Errorf("chunk %d of RAM block %d comes twice", s.first, s.block)
	}
	return nil
}

func (x *index) read(offset uint64, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(x.o, int64(offset), int64(n)), b); err != nil {
		return nil, fmt.Errorf("reading %s at %d: %w", x.name, offset, err)
	}
	return b, nil
}

func (x *index) load(s segment) ([]byte, error) {
	b, err := x.read(s.offset, int(s.length))
	if err == nil && checksum(b) != s.crc {
		err = corrupt(x.name, "the checksum of the segment at %d is wrong", s.offset)
	}
	return b, err
}

// extentPart loads one part of the extent table, checked.
func (x *index) extentPart(n int) ([]extent, error) {
	b, err := x.load(x.table[n])
	if err != nil {
		return nil, err
	}
	part := make([]extent, len(b)/extentLen)
	limit := maxExtentLen(x.layout.PageSize)
	for i := range part {
		e := parseExtent(b[i*extentLen:])
		switch {
		case int(e.object) >= len(x.objects):
			err = corrupt(x.name, "extent %d is in page object %d of %d", n*tableExtents+i, e.object, len(x.objects))
		case int(e.block) >= len(x.layout.Blocks):
			err = corrupt(x.name, "extent %d is of RAM block %d of %d", n*tableExtents+i, e.block, len(x.layout.Blocks))
		case e.count == 0 || int(e.count) > extentPages(x.layout.PageSize) || e.length == 0 || int64(e.length) > int64(limit) || e.codec > codecZstd:
			err = corrupt(x.name, "extent %d has %d pages in %d bytes with codec %d", n*tableExtents+i, e.count, e.length, e.codec)
		case e.offset > uint64(x.objects[e.object].Size) || uint64(e.length) > uint64(x.objects[e.object].Size)-e.offset:
			err = corrupt(x.name, "extent %d is %d bytes at %d of %s, which has %d", n*tableExtents+i, e.length, e.offset, x.objects[e.object].Name, x.objects[e.object].Size)
		}
		if err != nil {
			return nil, err
		}
		part[i] = e
	}
	return part, nil
}

// chunk is a loaded segment of pages.
type chunk struct {
	dense bool
	count int
	b     []byte
}

// loadChunk loads chunk n of a block; nil if it has no pages.
func (x *index) loadChunk(block int, n uint32) (*chunk, error) {
	s, ok := x.chunks[block][n]
	if !ok {
		return nil, nil
	}
	b, err := x.load(s)
	if err != nil {
		return nil, err
	}
	c := &chunk{dense: s.kind == segmentDense, count: int(s.count), b: b}
	if err := c.check(x.extents, x.layout.Pages(x.layout.Blocks[block])-uint64(n)*chunkPages); err != nil {
		return nil, corrupt(x.name, "chunk %d of RAM block %d: %v", n, block, err)
	}
	return c, nil
}

func (c *chunk) locations() []byte { return c.b[len(c.b)-8*c.count:] }

func (c *chunk) location(i int) location {
	return location(binary.BigEndian.Uint64(c.locations()[8*i:]))
}

// check looks at everything that a lookup goes by.
func (c *chunk) check(extents, pages uint64) error {
	be := binary.BigEndian
	last := -1
	if c.dense {
		rank := 0
		for i := 0; i < chunkPages; i += rankPages {
			if got := int(be.Uint16(c.b[chunkPages/8+2*(i/rankPages):])); got != rank&0xffff {
				return fmt.Errorf("rank %d at page %d (want %d)", got, i, rank)
			}
			for j, bits8 := range c.b[i/8 : (i+rankPages)/8] {
				rank += bits.OnesCount8(bits8)
				if bits8 != 0 {
					last = i + 8*j + bits.Len8(bits8) - 1
				}
			}
		}
		if rank != c.count {
			return fmt.Errorf("%d bits for %d pages", rank, c.count)
		}
	} else {
		for i := range c.count {
			page := int(be.Uint16(c.b[2*i:]))
			if page <= last {
				return fmt.Errorf("page %d follows page %d", page, last)
			}
			last = page
		}
	}
	if uint64(last) >= pages {
		return fmt.Errorf("page %d of %d", last, pages)
	}
	for i := range c.count {
		if l := c.location(i); l>>8 == 0 || l.extent() >= extents {
			return fmt.Errorf("location %#x with %d extents", uint64(l), extents)
		}
	}
	return nil
}

// find returns where page of the chunk is, 0 if it is zero. It takes a
// constant time: a bit and a rank, or at most eleven steps in a short list.
func (c *chunk) find(page uint32) location {
	be := binary.BigEndian
	if !c.dense {
		i := sort.Search(c.count, func(i int) bool { return uint32(be.Uint16(c.b[2*i:])) >= page })
		if i < c.count && uint32(be.Uint16(c.b[2*i:])) == page {
			return c.location(i)
		}
		return 0
	}
	if c.b[page/8]&(1<<(page%8)) == 0 {
		return 0
	}
	group := page / rankPages
	rank := int(be.Uint16(c.b[chunkPages/8+2*group:]))
	for _, bits8 := range c.b[group*rankPages/8 : page/8] {
		rank += bits.OnesCount8(bits8)
	}
	rank += bits.OnesCount8(c.b[page/8] & (1<<(page%8) - 1))
	return c.location(rank)
}

// entries appends all pages of the chunk.
func (c *chunk) entries(dst []entry) []entry {
	i := 0
	if !c.dense {
		for ; i < c.count; i++ {
			dst = append(dst, entry{uint32(binary.BigEndian.Uint16(c.b[2*i:])), c.location(i)})
		}
		return dst
	}
	for j, bits8 := range c.b[:chunkPages/8] {
		for ; bits8 != 0; bits8 &= bits8 - 1 {
			dst = append(dst, entry{uint32(8*j + bits.TrailingZeros8(bits8)), c.location(i)})
			i++
		}
	}
	return dst
}
