package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
)

// lane collects pages into extents and writes the extents to its own page objects. One
// goroutine uses it.
type lane struct {
	w        *Writer
	ctx      context.Context // of its writes, because the methods of guest.Lane take none
	object   *pageObject
	pageSize int
	max      int // largest number of pages of an extent

	// The current extent: its number, its block, and n pages. buf has space for
	// the lengths of all pages before data, so that flush can put the lengths
	// directly before the data.
	number  uint64
	block   *guest.Block
	n       int
	lengths []uint32
	header  int    // space for the lengths in bytes
	data    []byte // the used part of buf[header:]
	buf     []byte

	// The block, offsets and buffers of the last Pages. If the lane deflates, the
	// buffers are in scratch. Otherwise they are where the pages belong: behind data,
	// and those that do not fit into the current extent in scratch, which becomes the
	// buffer of the next extent.
	into    *guest.Block
	offsets []uint64
	pages   [][]byte
	scratch []byte
	spilled bool // pages that do not fit into the current extent are in scratch

	encoder pagecodec.Encoder // nil if the store does not deflate
	nonZero []uint64          // memory for the offsets of pages that are not zero
	frame   []byte
	closed  bool
}

// Lane opens a lane of the snapshot. Several lanes may be open, one for each goroutine.
// The caller closes each lane before Finish.
func (w *Writer) Lane() (guest.Lane, error) {
	if w.layout == nil {
		return nil, errors.New("snapshot: no memory yet (call Setup first)")
	}
	size := w.layout.PageSize
	l := &lane{w: w, ctx: w.ctx, pageSize: size, max: extentPages(size)}
	if w.codec == codecDeflate {
		l.header = 4 * l.max
	}
	l.buf = make([]byte, l.header+l.max*size)
	l.data = l.buf[l.header:l.header]
	l.scratch = make([]byte, guest.PacketBytes)
	if w.codec == codecDeflate {
		var err error
		if l.encoder, err = w.opts.Accelerator.NewEncoder(size, w.opts.Store.mode()); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lanes++
	if l.encoder != nil {
		w.encoders = append(w.encoders, l.encoder)
	}
	return l, nil
}

// Pages returns memory whose content Commit encodes. If the lane does not deflate, it is
// the memory of the extent, so that Commit need not copy the pages.
func (l *lane) Pages(b *guest.Block, offsets []uint64) ([][]byte, error) {
	if len(offsets) > guest.PacketBytes/l.pageSize {
		return nil, fmt.Errorf("snapshot: %d pages in one call (at most %d)", len(offsets), guest.PacketBytes/l.pageSize)
	}
	if err := l.check(b, offsets); err != nil {
		return nil, err
	}
	room := 0 // pages that fit into the current extent
	if l.encoder == nil {
		if l.block != b {
			if err := l.flush(); err != nil {
				return nil, err
			}
		}
		room = l.max - l.n
	}
	l.into, l.offsets, l.pages, l.spilled = b, offsets, l.pages[:0], len(offsets) > room
	extent, size := l.data[len(l.data):cap(l.data)], l.pageSize
	for i := range offsets {
		at, in := i, extent
		if i >= room {
			at, in = i-room, l.scratch
		}
		l.pages = append(l.pages, in[at*size:(at+1)*size:(at+1)*size])
	}
	return l.pages, nil
}

// Commit encodes the pages in the memory that Pages returned.
func (l *lane) Commit() error {
	l.dropZero()
	if len(l.pages) == 0 {
		return nil
	}
	if l.encoder != nil {
		if err := l.encoder.Begin(l.pages); err != nil {
			return err
		}
		if err := l.encoder.Finish(); err != nil {
			return err
		}
		defer l.encoder.Release()
	}
	for i, page := range l.pages {
		if err := l.begin(l.into); err != nil {
			return err
		}
		if l.encoder != nil {
			page = l.encoder.Stream(i, l.data[len(l.data):cap(l.data)])
		}
		if err := l.add(l.offsets[i], page); err != nil {
			return err
		}
	}
	return nil
}

// dropZero records the zero pages of the last Pages and removes them from l.pages.
func (l *lane) dropZero() {
	pages := l.pages[:0]
	l.nonZero = l.nonZero[:0]
	for i, off := range l.offsets {
		if deflate.IsZero(l.pages[i]) {
			l.w.tables[l.into.Index].put(off/uint64(l.pageSize), 0)
			continue
		}
		pages, l.nonZero = append(pages, l.pages[i]), append(l.nonZero, off)
	}
	l.pages, l.offsets = pages, l.nonZero
}

// KeepsDeflated reports whether the snapshot stores deflated pages.
func (l *lane) KeepsDeflated() bool { return l.w.codec == codecDeflate }

// PutDeflated stores deflated pages unchanged.
func (l *lane) PutDeflated(b *guest.Block, offsets []uint64, lengths []uint32, data []byte) error {
	if err := l.check(b, offsets); err != nil {
		return err
	}
	var sum uint64
	for _, n := range lengths {
		sum += uint64(n)
	}
	if len(lengths) != len(offsets) || sum != uint64(len(data)) {
		return fmt.Errorf("snapshot: %d lengths with a sum of %d bytes for %d pages with %d bytes of data", len(lengths), sum, len(offsets), len(data))
	}
	for i, off := range offsets {
		if err := l.begin(b); err != nil {
			return err
		}
		n := lengths[i]
		if err := l.add(off, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// Zero removes the pages from the table: a page without a location is zero.
func (l *lane) Zero(b *guest.Block, offsets []uint64) error {
	if err := l.check(b, offsets); err != nil {
		return err
	}
	for _, off := range offsets {
		l.w.tables[b.Index].put(off/uint64(l.pageSize), 0)
	}
	return nil
}

// check checks offsets before they index a table.
func (l *lane) check(b *guest.Block, offsets []uint64) error {
	for _, off := range offsets {
		if err := l.w.layout.CheckOffset(b, off); err != nil {
			return err
		}
	}
	return nil
}

// begin makes the current extent one of the block with a free slot.
func (l *lane) begin(b *guest.Block) error {
	if l.n > 0 && l.block == b {
		return nil
	}
	if err := l.flush(); err != nil {
		return err
	}
	number, err := l.w.newExtent()
	l.number, l.block = number, b
	return err
}

// add appends an encoded page to the current extent.
func (l *lane) add(offset uint64, data []byte) error {
	if free := l.data[len(l.data):cap(l.data)]; len(free) >= len(data) && len(data) > 0 && &free[0] == &data[0] {
		l.data = l.data[:len(l.data)+len(data)] // the encoder or the caller of Pages wrote it here
	} else {
		l.data = append(l.data, data...)
	}
	l.lengths = append(l.lengths, uint32(len(data)))
	l.w.tables[l.block.Index].put(offset/uint64(l.pageSize), newLocation(l.number, l.n))
	if l.n++; l.n == l.max {
		return l.flush()
	}
	return nil
}

// flush writes the current extent.
func (l *lane) flush() error {
	if l.n == 0 {
		return nil
	}
	payload := l.data
	switch l.w.codec {
	case codecDeflate:
		start := l.header - 4*l.n
		for i, n := range l.lengths {
			binary.BigEndian.PutUint32(l.buf[start+4*i:], n)
		}
		payload = l.buf[start : l.header+len(l.data)]
	case codecZstd:
		enc := zstdEncoders.Get().(*zstd.Encoder)
		l.frame = enc.EncodeAll(l.data, l.frame[:0])
		zstdEncoders.Put(enc)
		payload = l.frame
	}
	if err := l.write(payload); err != nil {
		return err
	}
	if l.encoder == nil && l.spilled && len(l.scratch) == len(l.buf) {
		l.buf, l.scratch, l.spilled = l.scratch, l.buf, false
	}
	l.n, l.lengths, l.data = 0, l.lengths[:0], l.buf[l.header:l.header]
	return nil
}

func (l *lane) write(payload []byte) error {
	if l.object == nil {
		o, err := l.w.newObject(l.ctx)
		if err != nil {
			return err
		}
		l.object = o
	}
	e := extent{
		object: l.object.index, block: uint16(l.block.Index), codec: l.w.codec, count: uint8(l.n),
		offset: uint64(l.object.info.Size), length: uint32(len(payload)), sum: sumOf(newestVersion, payload),
	}
	if err := l.object.add(l.ctx, payload, e.sum); err != nil {
		return err
	}
	l.w.bytes.Add(int64(len(payload)))
	l.w.mu.Lock()
	l.w.extents[l.number] = e
	l.w.mu.Unlock()
	if l.object.info.Size >= objectSize(l.w.opts.ObjectSize, int(l.object.index)) {
		o := l.object
		l.object = nil
		return l.w.seal(l.ctx, o)
	}
	return nil
}

// Close writes the current extent and ends the lane. The source's machine is paused
// meanwhile; so Finish seals the lane's object, because flushing it would slow the source
// down.
func (l *lane) Close() error {
	if l.closed {
		return nil
	}
	l.closed = true
	l.closeEncoder()
	err := l.flush()
	l.w.mu.Lock()
	if l.object != nil && err == nil {
		l.w.unsealed = append(l.w.unsealed, l.object)
		l.object = nil
	}
	l.w.lanes--
	l.w.mu.Unlock()
	return err
}

func (l *lane) closeEncoder() {
	if l.encoder == nil {
		return
	}
	l.encoder.Close()
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.encoders = slices.DeleteFunc(l.w.encoders, func(e pagecodec.Encoder) bool { return e == l.encoder })
}
