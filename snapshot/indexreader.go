package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"slices"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/store"
)

// index reads an index in ranges. openIndex reads the footer and the directory; later
// calls read one segment each.
type index struct {
	o       store.Object
	name    string
	format  *indexFormat
	layout  *guest.Layout
	objects []ObjectInfo // of role pages
	extents uint64
	pages   uint64
	table   []segment   // of the extent table, in order
	chunks  [][]segment // by block, in the order of chunks
}

// openIndex opens the index that the manifest of a version describes with info.
func openIndex(ctx context.Context, o store.Object, version int, info ObjectInfo, layout *guest.Layout, objects []ObjectInfo) (*index, error) {
	be := binary.BigEndian
	name, format := info.Name, indexFormats[version]
	x := &index{o: o, name: name, format: format, layout: layout, objects: objects, chunks: make([][]segment, len(layout.Blocks))}
	if o.Size() < footerLen {
		return nil, corrupt(name, "%d bytes are too short for a footer", o.Size())
	}
	footer, err := x.read(ctx, uint64(o.Size())-footerLen, footerLen)
	if err != nil {
		return nil, err
	}
	if string(footer[:8]) != format.magic || be.Uint32(footer[8:]) != uint32(format.version) {
		return nil, corrupt(name, "the footer begins with %q", footer[:12])
	}
	if version == version1 && crc32.Checksum(footer[:footerLen-4], castagnoli) != be.Uint32(footer[footerLen-4:]) {
		return nil, corrupt(name, "the footer's checksum is wrong")
	}
	count, dirAt := uint64(be.Uint32(footer[12:])), be.Uint64(footer[32:])
	x.extents, x.pages = be.Uint64(footer[16:]), be.Uint64(footer[24:])
	if lines := count * uint64(format.segmentLen); lines > uint64(o.Size())-footerLen || dirAt != uint64(o.Size())-footerLen-lines {
		return nil, corrupt(name, "the directory of %d segments at %d does not fit the index of %d bytes", count, dirAt, o.Size())
	}
	if err := x.checkCounts(count); err != nil {
		return nil, err
	}
	h, err := x.readDirectory(ctx, dirAt, count)
	if err != nil {
		return nil, err
	}
	if version == version1 {
		if !bytes.Equal(h.Sum(nil), footer[40:44]) {
			return nil, corrupt(name, "the directory's checksum is wrong")
		}
		return x, nil
	}
	h.Write(footer)
	if got := hex.EncodeToString(h.Sum(nil)); got != info.BLAKE3 {
		return nil, corrupt(name, "the digest of its directory is %s (the manifest has %s)", got, info.BLAKE3)
	}
	return x, nil
}

// checkCounts compares the counts of the footer with the machine's number of pages.
func (x *index) checkCounts(segments uint64) error {
	var pages, chunks uint64
	for _, b := range x.layout.Blocks {
		n := x.layout.Pages(b)
		pages += n
		chunks += (n + chunkPages - 1) / chunkPages
	}
	if x.pages > pages || x.extents > x.pages {
		return corrupt(x.name, "the footer has %d pages in %d extents, but the machine has %d pages", x.pages, x.extents, pages)
	}
	if most := chunks + (x.extents+tableExtents-1)/tableExtents; segments > most {
		return corrupt(x.name, "the footer has %d segments (at most %d with %d extents)", segments, most, x.extents)
	}
	return nil
}

// directoryLines is the number of entries of the directory that are read at a time. So
// memory grows with the valid entries, not with the count that the footer claims.
const directoryLines = 1 << 13

// readDirectory reads and checks the entries of the directory. It returns the hash of the
// directory, which can take the footer as well.
func (x *index) readDirectory(ctx context.Context, at, count uint64) (hash.Hash, error) {
	d := indexDirectory{x: x, end: at}
	var h hash.Hash = crc32.New(castagnoli)
	if x.format.version > version1 {
		h = newDigest(x.format.version)
	}
	size := uint64(x.format.segmentLen)
	for count > 0 {
		n := min(count, directoryLines)
		lines, err := x.read(ctx, at, int(n*size))
		if err != nil {
			return nil, err
		}
		h.Write(lines)
		for line := range slices.Chunk(lines, int(size)) {
			if err := d.add(line); err != nil {
				return nil, err
			}
		}
		at, count = at+n*size, count-n
	}
	return h, d.check()
}

// indexDirectory checks the entries of a directory and sums their counts.
type indexDirectory struct {
	x       *index
	lines   int
	offset  uint64 // start of the next segment
	end     uint64 // start of the directory
	extents uint64
	pages   uint64
}

// add checks an entry and adds it to the index. The segments must be adjacent and in the
// order of the entries, so that no byte is in two segments.
func (d *indexDirectory) add(line []byte) error {
	x, s := d.x, d.x.format.parseSegment(line)
	bad := func(format string, args ...any) error {
		return corrupt(x.name, "directory entry %d: %s", d.lines, fmt.Sprintf(format, args...))
	}
	var length uint64
	switch s.kind {
	case segmentExtents:
		length = uint64(s.count) * uint64(x.format.extentLen)
		if s.count == 0 || s.count > tableExtents || int(s.first) != len(x.table) || d.extents%tableExtents != 0 {
			return bad("invalid count of %d extents in part %d of the extent table", s.count, s.first)
		}
		x.table = append(x.table, s)
		d.extents += uint64(s.count)
	case segmentSparse, segmentDense:
		if err := x.checkChunk(s); err != nil {
			return bad("%v", err)
		}
		length = uint64(s.count) * sparseEntryLen
		if s.kind == segmentDense {
			length = chunkPages/8 + 2*chunkPages/rankPages + uint64(s.count)*8
		}
		x.chunks[s.block] = append(x.chunks[s.block], s)
		d.pages += uint64(s.count)
	default:
		return bad("unknown kind %d of segment", s.kind)
	}
	if s.offset != d.offset || uint64(s.length) != length || length > d.end-d.offset {
		return bad("segment of %d bytes at %d (want %d bytes at %d, before the directory at %d)", s.length, s.offset, length, d.offset, d.end)
	}
	d.lines++
	d.offset += length
	return nil
}

// check compares the sums over all entries with the footer.
func (d *indexDirectory) check() error {
	if d.offset != d.end {
		return corrupt(d.x.name, "the segments end at %d, but the directory begins at %d", d.offset, d.end)
	}
	if d.extents != d.x.extents || d.pages != d.x.pages {
		return corrupt(d.x.name, "the directory has %d extents and %d pages, but the footer has %d and %d", d.extents, d.pages, d.x.extents, d.x.pages)
	}
	return nil
}

func (x *index) checkChunk(s segment) error {
	if int(s.block) >= len(x.layout.Blocks) {
		return fmt.Errorf("RAM block %d does not exist (the machine has %d)", s.block, len(x.layout.Blocks))
	}
	if pages := x.layout.Pages(x.layout.Blocks[s.block]); uint64(s.first)*chunkPages >= pages || s.count == 0 || uint64(s.count) > min(chunkPages, pages-uint64(s.first)*chunkPages) {
		return fmt.Errorf("invalid count of %d pages in chunk %d of a RAM block of %d pages", s.count, s.first, pages)
	}
	if before := x.chunks[s.block]; len(before) > 0 && s.first <= before[len(before)-1].first {
		return fmt.Errorf("chunk %d of RAM block %d follows chunk %d", s.first, s.block, before[len(before)-1].first)
	}
	return nil
}

func (x *index) read(ctx context.Context, offset uint64, n int) ([]byte, error) {
	b := make([]byte, n)
	if err := store.ReadFull(ctx, x.o, b, int64(offset)); err != nil {
		return nil, fmt.Errorf("reading %s at %d: %w", x.name, offset, err)
	}
	return b, nil
}

func (x *index) load(ctx context.Context, s segment) ([]byte, error) {
	b, err := x.read(ctx, s.offset, int(s.length))
	if err == nil && sumOf(x.format.version, b) != s.sum {
		err = corrupt(x.name, "the digest of the segment at %d is wrong", s.offset)
	}
	return b, err
}

// extentPart loads and checks one part of the extent table.
func (x *index) extentPart(ctx context.Context, n int) ([]extent, error) {
	b, err := x.load(ctx, x.table[n])
	if err != nil {
		return nil, err
	}
	part := make([]extent, len(b)/x.format.extentLen)
	for i := range part {
		part[i] = x.format.parseExtent(b[i*x.format.extentLen:])
		if err := x.checkExtent(n*tableExtents+i, &part[i]); err != nil {
			return nil, err
		}
	}
	return part, nil
}

// checkExtent checks extent n before its numbers are used.
func (x *index) checkExtent(n int, e *extent) error {
	switch {
	case int(e.object) >= len(x.objects):
		return corrupt(x.name, "extent %d is in page object %d, but there are %d", n, e.object, len(x.objects))
	case int(e.block) >= len(x.layout.Blocks):
		return corrupt(x.name, "extent %d belongs to RAM block %d, but there are %d", n, e.block, len(x.layout.Blocks))
	case e.key != 0 || e.codec&codecEncrypted != 0:
		return corrupt(x.name, "extent %d has codec %d and key %d, but the manifest requires no decryption", n, e.codec, e.key)
	case e.count == 0 || int(e.count) > extentPages(x.layout.PageSize) || e.length == 0 || int64(e.length) > int64(maxExtentLen(x.layout.PageSize)) || e.codec > codecZstd:
		return corrupt(x.name, "extent %d has an invalid count or codec: %d pages in %d bytes with codec %d", n, e.count, e.length, e.codec)
	}
	o := &x.objects[e.object]
	if end := uint64(o.extentBytes(x.format.version)); e.offset > end || uint64(e.length) > end-e.offset {
		return corrupt(x.name, "extent %d has %d bytes at %d of %s, which has only %d bytes of extents", n, e.length, e.offset, o.Name, end)
	}
	return nil
}

// loadChunk loads and checks chunk n of a block. It returns nil if the chunk has no
// pages.
func (x *index) loadChunk(ctx context.Context, block int, n uint32) (*chunk, error) {
	i, ok := slices.BinarySearchFunc(x.chunks[block], n, func(s segment, n uint32) int { return cmp.Compare(s.first, n) })
	if !ok {
		return nil, nil
	}
	s := x.chunks[block][i]
	b, err := x.load(ctx, s)
	if err != nil {
		return nil, err
	}
	c := &chunk{dense: s.kind == segmentDense, count: int(s.count), b: b}
	if err := c.check(x.extents, x.layout.Pages(x.layout.Blocks[block])-uint64(n)*chunkPages); err != nil {
		return nil, corrupt(x.name, "chunk %d of RAM block %d: %v", n, block, err)
	}
	return c, nil
}
