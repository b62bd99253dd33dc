package linkwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
)

// Event is what a Decoder has read: one frame.
type Event struct {
	Kind Kind
	// Bytes are the connection's bytes of a BYTES or PACKET frame, valid until the next
	// call of Next.
	Bytes []byte
	// Forms counts the pages of a PACKET frame.
	Forms Forms
	// Packets is what an ACK frame acknowledges.
	Packets uint64
	// Cache is what a CACHE frame names, PageSize the size of its pages.
	Cache    CacheID
	PageSize int
	// Reason is that of a RESET frame. It is text of the peer.
	Reason string
}

// Decoder reads the frames of one connection. It is for use by one goroutine. Its memory
// is bounded: less than 2 MiB, and the windows of two zstd streams if the peer uses
// them.
type Decoder struct {
	in     io.Reader
	acc    *pagecodec.Accelerator
	cache  *ReceiverCache
	header headerCoder
	// inflate is made when the first frame has deflated pages.
	inflate     pagecodec.Decoder
	inflateSize int
	zstd        [3]zstdReader // by coding
	digest      *blake3.Hasher
	read        uint64 // bytes
	cacheNamed  bool   // by a CACHE frame

	frame  [frameHeaderLen]byte
	head   []byte
	data   []byte // of a frame, as it arrives
	plain  []byte // the data, decoded
	out    []byte // the connection's bytes
	pages  []receivedPage
	sizes  []uint32
	places [][]byte
}

// NewDecoder returns a decoder of what in delivers. Close frees it.
func NewDecoder(in io.Reader, acc *pagecodec.Accelerator) *Decoder {
	return &Decoder{in: in, acc: acc}
}

// Close frees what the decoder holds.
func (d *Decoder) Close() {
	if d.inflate != nil {
		d.inflate.Close()
	}
	for i := range d.zstd {
		d.zstd[i].close()
	}
}

// UseCache sets the cache for the packets that follow.
func (d *Decoder) UseCache(c *ReceiverCache) { d.cache = c }

// Read returns the bytes read from the link.
func (d *Decoder) Read() uint64 { return d.read }

// Next reads a frame. If the link ends between two frames, the error is io.EOF. An Event
// with an error has no bytes.
func (d *Decoder) Next(e *Event) error {
	*e = Event{}
	err := d.next(e)
	if err != nil {
		e.Bytes = nil
	}
	return err
}

func (d *Decoder) next(e *Event) error {
	if err := d.readFull(d.frame[:]); err != nil {
		return err
	}
	kind, n, err := parseFrameHeader(d.frame[:])
	if err != nil {
		return err
	}
	e.Kind = kind
	switch kind {
	case KindBytes:
		return notEOF(d.bytes(e, n))
	case KindPacket:
		return notEOF(d.packet(e, n))
	}
	body, err := d.body(n)
	if err != nil {
		return notEOF(err)
	}
	switch kind {
	case KindCache:
		if d.cacheNamed {
			return malformed(KindCache, "the connection has a cache already")
		}
		d.cacheNamed = true
		e.Cache, e.PageSize, err = parseCache(body)
	case KindAck:
		e.Packets = binary.BigEndian.Uint64(body)
	case KindReset:
		e.Reason = string(body)
	}
	return err
}

// notEOF makes the end within a frame an error of its own.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (d *Decoder) readFull(b []byte) error {
	n, err := io.ReadFull(d.in, b)
	d.read += uint64(n)
	return err
}

// body reads n bytes of the frame into the head's buffer.
func (d *Decoder) body(n int) ([]byte, error) {
	d.head = sized(d.head, n)
	return d.head, d.readFull(d.head)
}

// sized returns b with length n, or new memory if its capacity is less.
func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

func (d *Decoder) bytes(e *Event, n int) error {
	fixed, err := d.body(bytesFixedLen)
	if err != nil {
		return err
	}
	c, plain := coding(fixed[0]), int(binary.BigEndian.Uint32(fixed)&0xffffff)
	n -= bytesFixedLen
	switch {
	case plain > MaxBytes:
		return malformed(KindBytes, "%d bytes (at most %d)", plain, MaxBytes)
	case c == codingPlain && plain != n:
		return malformed(KindBytes, "%d bytes, but %d follow", plain, n)
	}
	d.out = sized(d.out, plain)
	e.Bytes = d.out
	return d.readData(KindBytes, d.out, c, n)
}

// readData reads n bytes of data and decodes them to out.
func (d *Decoder) readData(kind Kind, out []byte, c coding, n int) error {
	switch c {
	case codingPlain:
		return d.readFull(out)
	case codingZstd, codingZstdBetter:
		d.data = sized(d.data, n)
		if err := d.readFull(d.data); err != nil {
			return err
		}
		if err := d.zstd[c].decode(out, d.data); err != nil {
			return malformed(kind, "zstd: %v", err)
		}
		return nil
	}
	return malformed(kind, "coding %d of the data", c)
}

// packet reads a PACKET frame, whose body has n bytes.
func (d *Decoder) packet(e *Event, n int) error {
	be := binary.BigEndian
	fixed, err := d.body(packetFixedLen)
	if err != nil {
		return err
	}
	c, shift, count := coding(fixed[0]), fixed[1], int(be.Uint16(fixed[2:]))
	headLen, plainLen := be.Uint32(fixed[4:]), be.Uint32(fixed[8:])
	n -= packetFixedLen
	if shift > 16 || 1<<shift < guest.MinPageSize {
		return malformed(KindPacket, "pages of 2^%d bytes", shift)
	}
	pageSize := 1 << shift
	switch {
	case count > guest.PacketPages(pageSize):
		return malformed(KindPacket, "%d pages of %d bytes (at most %d)", count, pageSize, guest.PacketPages(pageSize))
	case headLen > maxHead || int(headLen) > n:
		return malformed(KindPacket, "a head of %d bytes in a body of %d (at most %d)", headLen, n, maxHead)
	case plainLen > maxData:
		return malformed(KindPacket, "%d bytes of data (at most %d)", plainLen, maxData)
	case c == codingPlain && int(plainLen) != n-int(headLen):
		return malformed(KindPacket, "%d bytes of data, but %d follow", plainLen, n-int(headLen))
	}
	body, err := d.body(int(headLen))
	if err != nil {
		return err
	}
	r := &reader{b: body, kind: KindPacket}
	header := d.header.read(r, pageSize)
	d.readPlan(r, count, pageSize, int(plainLen))
	var digest []byte
	if d.usesCache() {
		digest = r.take(digestLen)
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes are left over in the head", len(r.b))
	}
	if r.err != nil {
		return r.err
	}
	d.out = sized(d.out, len(header)+count*pageSize)
	copy(d.out, header)
	e.Bytes = d.out
	pages := d.out[len(header):]
	if d.allRaw() && c == codingPlain {
		if err := d.readFull(pages); err != nil {
			return err
		}
	} else {
		d.plain = sized(d.plain, int(plainLen))
		if err := d.readData(KindPacket, d.plain, c, n-int(headLen)); err != nil {
			return err
		}
		if err := d.place(pages, pageSize); err != nil {
			return err
		}
	}
	if err := d.verify(pages, pageSize, digest); err != nil {
		return err
	}
	for i := range d.pages {
		e.Forms.count(d.pages[i].form, c)
	}
	return d.keep(pages, pageSize)
}

// place puts the pages of a frame together. Its data is in d.plain.
func (d *Decoder) place(pages []byte, pageSize int) error {
	data := d.plain
	d.sizes, d.places = d.sizes[:0], d.places[:0]
	streams := 0
	for i := range d.pages {
		p := &d.pages[i]
		page := pages[i*pageSize : (i+1)*pageSize]
		own := data[:p.n]
		data = data[p.n:]
		switch p.form {
		case formZero:
			clear(page)
		case formRaw:
			copy(page, own)
		case formDeflated:
			// The streams move together: the decoder takes a batch without gaps.
			streams += copy(d.plain[streams:], own)
			d.sizes, d.places = append(d.sizes, uint32(p.n)), append(d.places, page)
		case formReference, formDifference:
			if err := d.load(p, page); err != nil {
				return fmt.Errorf("page %d of a packet: %w", i, err)
			}
			if err := applyDifference(page, own); err != nil {
				return malformed(KindPacket, "page %d: %v", i, err)
			}
		}
	}
	if len(d.sizes) == 0 {
		return nil
	}
	return d.inflateAll(d.plain[:streams], pageSize)
}

func (d *Decoder) load(p *receivedPage, page []byte) error {
	if d.cache == nil || d.cache.pageSize != len(page) {
		return fmt.Errorf("%w: this side has no cache of pages of %d bytes", ErrCacheMismatch, len(page))
	}
	return d.cache.load(uint64(p.from.slot), p.from.version, page)
}

// inflateAll inflates the deflated pages of a frame.
func (d *Decoder) inflateAll(streams []byte, pageSize int) error {
	if d.inflate == nil || d.inflateSize != pageSize {
		if d.inflate != nil {
			d.inflate.Close()
		}
		var err error
		if d.inflate, err = d.acc.NewDecoder(pageSize); err != nil {
			return fmt.Errorf("setting up to inflate pages: %w", err)
		}
		d.inflateSize = pageSize
	}
	err := d.inflate.Begin(d.sizes, streams, d.places)
	if err == nil {
		err = d.inflate.Finish()
	}
	if bad, ok := errors.AsType[*pagecodec.PageError](err); ok {
		return malformed(KindPacket, "deflated page %d: %v", bad.Page, bad.Err)
	}
	return err
}

// verify compares the pages that came from the cache with the sender's.
func (d *Decoder) verify(pages []byte, pageSize int, digest []byte) error {
	if digest == nil {
		return nil
	}
	if d.digest == nil {
		d.digest = blake3.New()
	}
	d.digest.Reset()
	for i := range d.pages {
		if d.pages[i].form.fromCache() {
			d.digest.Write(pages[i*pageSize : (i+1)*pageSize])
		}
	}
	var sum [32]byte
	if !bytes.Equal(d.digest.Sum(sum[:0])[:digestLen], digest) {
		return fmt.Errorf("%w: the digest of a packet's pages is another", ErrCacheMismatch)
	}
	return nil
}

// keep stores the pages that the sender wants to use again.
func (d *Decoder) keep(pages []byte, pageSize int) error {
	for i := range d.pages {
		p := &d.pages[i]
		if p.kept.none() {
			continue
		}
		if d.cache == nil || d.cache.pageSize != pageSize {
			return fmt.Errorf("%w: this side has no cache of pages of %d bytes", ErrCacheMismatch, pageSize)
		}
		if err := d.cache.store(uint64(p.kept.slot), p.kept.version, pages[i*pageSize:(i+1)*pageSize]); err != nil {
			return fmt.Errorf("page %d of a packet: %w", i, err)
		}
	}
	return nil
}
