package linkwire

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"

	"github.com/zeebo/blake3"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
)

// Frame is a unit on its way: what the Encoder makes of a Unit. It is reused.
type Frame struct {
	Unit
	// Level is how hard the Encoder tries.
	Level Level
	// Out is what goes over the link. It is valid until the Frame is used again.
	Out net.Buffers
	// Forms counts the frame's pages.
	Forms Forms

	pages     []pagePlan
	fresh     [][]byte // pages to deflate
	diffs     []byte
	pinned    []uint32          // slots of the cache
	fromCache bool              // a page is a difference or a reference
	deflate   pagecodec.Encoder // of the frame's batch; nil if no page is deflated
	head      []byte
	data      []byte
	vectors   [][]byte // the memory of Out
}

// pagePlan is how a page is sent.
type pagePlan struct {
	cacheUse
	form form
	page []byte
	diff []byte
}

// Plain returns the number of bytes that the frame stands for.
func (f *Frame) Plain() int { return len(f.Bytes) + len(f.Header) + len(f.Pages) }

// Size returns the number of bytes of Out.
func (f *Frame) Size() (n int) {
	for _, b := range f.Out {
		n += len(b)
	}
	return n
}

// Encoder makes the frames of one connection. It is for use by one goroutine, except
// Acknowledge.
type Encoder struct {
	acc     *pagecodec.Accelerator
	cache   *SenderCache
	header  headerCoder
	deflate map[int]pagecodec.Encoder // by page size, which any packet of a stream can change
	last    pagecodec.Encoder         // the one of deflate that was used last
	zstd    [3]*zstdWriter            // by coding
	digest  *blake3.Hasher
	ledger  ledger
}

// NewEncoder returns an encoder without a cache. Close frees it.
func NewEncoder(acc *pagecodec.Accelerator) *Encoder { return &Encoder{acc: acc} }

// Close frees what the encoder holds.
func (e *Encoder) Close() {
	for _, d := range e.deflate {
		d.Close()
	}
	for _, z := range e.zstd {
		z.close()
	}
	e.ledger.close()
}

// UseCache sets the cache for the packets that follow. The caller sends a CACHE frame
// before them. A connection has one cache at most: UseCache is called once.
func (e *Encoder) UseCache(c *SenderCache) {
	e.cache = c
	e.ledger.open(c)
}

// Acknowledge takes an ACK frame of the other side: so many packets have been read since
// the connection began.
func (e *Encoder) Acknowledge(packets uint64) error {
	return e.ledger.acknowledge(packets)
}

// Overlaps reports whether Begin of the next frame should come before Finish of the one
// before.
func (e *Encoder) Overlaps() bool { return e.last != nil && e.last.Overlaps() }

// Begin begins a frame of f.Unit. At most two frames are begun and not finished.
func (e *Encoder) Begin(f *Frame) error {
	f.Forms, f.fromCache, f.deflate = Forms{}, false, nil
	f.fresh, f.pinned, f.diffs = f.fresh[:0], f.pinned[:0], f.diffs[:0]
	if f.Header == nil {
		return nil
	}
	e.plan(f)
	// Here and not in Finish: a frame that is never finished has slots, too.
	e.ledger.sent(f.pinned)
	if f.Level != LevelDeflate {
		return nil
	}
	for i := range f.pages {
		if f.pages[i].form == formRaw {
			f.fresh = append(f.fresh, f.pages[i].page)
		}
	}
	if len(f.fresh) == 0 {
		return nil
	}
	var err error
	if f.deflate, err = e.deflater(f.PageSize); err != nil {
		return fmt.Errorf("setting up to deflate pages: %w", err)
	}
	return f.deflate.Begin(f.fresh)
}

// deflater returns the encoder for pages of a size. The first call for a size makes it.
func (e *Encoder) deflater(pageSize int) (d pagecodec.Encoder, err error) {
	d = e.deflate[pageSize]
	if d == nil {
		if d, err = e.acc.NewEncoder(pageSize, deflate.Fast); err != nil {
			return nil, err
		}
		if e.deflate == nil {
			e.deflate = map[int]pagecodec.Encoder{}
		}
		e.deflate[pageSize] = d
	}
	e.last = d
	return d, nil
}

// plan chooses the form of each page, as far as that is known before pages are deflated.
func (e *Encoder) plan(f *Frame) {
	f.pages = f.pages[:0]
	for at := 0; at < len(f.Pages); at += f.PageSize {
		p := pagePlan{form: formRaw, page: f.Pages[at : at+f.PageSize]}
		if deflate.IsZero(p.page) {
			p.form = formZero
		}
		f.pages = append(f.pages, p)
	}
	if f.Level >= LevelDeflate && e.cache != nil && e.cache.pageSize == f.PageSize && !e.ledger.full() {
		e.consultCache(f)
	}
}

// Finish finishes the frame that was begun first.
func (e *Encoder) Finish(f *Frame) error {
	switch {
	case f.Header == nil:
		return e.finishBytes(f)
	case f.deflate != nil:
		return e.finishDeflated(f)
	case f.Level >= LevelZstd:
		return e.finishZstd(f)
	}
	e.finishRaw(f)
	return nil
}

// finishRaw sends raw pages and differences from where they are.
func (e *Encoder) finishRaw(f *Frame) {
	n := f.collect()
	e.appendHead(f, codingPlain, n, n)
	f.vectors[0] = f.head
	f.Out = f.vectors
}

// collect sets f.vectors to room for the head, and the data of the pages in order. It
// returns the number of bytes of the data.
func (f *Frame) collect() (n int) {
	f.vectors = append(f.vectors[:0], nil)
	for i := range f.pages {
		if d := f.pages[i].data(); len(d) > 0 {
			f.vectors = appendVector(f.vectors, d)
			n += len(d)
		}
	}
	return n
}

// data returns what a page puts into the data of a frame that is not deflated.
func (p *pagePlan) data() []byte {
	switch p.form {
	case formRaw:
		return p.page
	case formDifference:
		return p.diff
	}
	return nil
}

// appendVector appends a vector, or lengthens the last one if d follows it in memory.
func appendVector(vectors [][]byte, d []byte) [][]byte {
	last := &vectors[len(vectors)-1]
	if n := len(*last); n > 0 && cap(*last) >= n+len(d) && &(*last)[:n+1][n] == &d[0] {
		*last = (*last)[:n+len(d)]
		return vectors
	}
	return append(vectors, d)
}

// finishDeflated collects the streams of the deflated pages.
func (e *Encoder) finishDeflated(f *Frame) error {
	if err := f.deflate.Finish(); err != nil {
		return fmt.Errorf("deflating pages: %w", err)
	}
	defer f.deflate.Release()
	if cap(f.data) < guest.PacketBytes+guest.MaxPageSize {
		f.data = make([]byte, 0, guest.PacketBytes+guest.MaxPageSize)
	}
	f.data = f.data[:0]
	next := 0
	for i := range f.pages {
		p := &f.pages[i]
		if p.form != formRaw {
			f.data = append(f.data, p.data()...)
			continue
		}
		stream := f.deflate.Stream(next, f.data[len(f.data):len(f.data)+f.PageSize])
		next++
		if len(stream) < f.PageSize {
			p.form, p.diff = formDeflated, stream
		}
		f.data = append(f.data, stream...)
	}
	e.appendHead(f, codingPlain, len(f.data), len(f.data))
	f.vectors = append(f.vectors[:0], f.head, f.data)
	f.Out = f.vectors
	return nil
}

// finishZstd compresses the data of all pages together.
func (e *Encoder) finishZstd(f *Frame) error {
	plain := f.collect()
	if plain == 0 {
		e.finishRaw(f)
		return nil
	}
	c := f.Level.coding()
	if err := e.compress(f, c, f.vectors[1:]...); err != nil {
		return err
	}
	e.appendHead(f, c, plain, len(f.data))
	f.vectors = append(f.vectors[:0], f.head, f.data)
	f.Out = f.vectors
	return nil
}

// compress sends parts through the zstd stream of a coding. f.data is what came out.
func (e *Encoder) compress(f *Frame, c coding, parts ...[]byte) error {
	z, err := e.writer(c)
	if err != nil {
		return err
	}
	z.begin(f.data[:0])
	for _, part := range parts {
		if err := z.write(part); err != nil {
			return err
		}
	}
	f.data, err = z.flush()
	return err
}

// appendHead makes the frame's header and head, and counts the pages.
func (e *Encoder) appendHead(f *Frame, c coding, plain, coded int) {
	be := binary.BigEndian
	var fixedPart [frameHeaderLen + packetFixedLen]byte // filled in below
	b := append(f.head[:0], fixedPart[:]...)
	b = e.header.append(b, f.Header, max(f.PageSize, 1))
	for i := range f.pages {
		p := &f.pages[i]
		form := p.form
		f.Forms.count(form, c)
		if !p.fill.none() {
			form |= formKept
		}
		b = append(b, byte(form))
	}
	for i := range f.pages {
		b = f.pages[i].appendFields(b)
	}
	if f.fromCache {
		b = e.appendDigest(b, f)
	}
	head := len(b) - frameHeaderLen - packetFixedLen
	appendFrameHeader(b[:0], KindPacket, packetFixedLen+head+coded)
	fixed := b[frameHeaderLen:]
	fixed[0], fixed[1] = byte(c), byte(bits.TrailingZeros(uint(f.PageSize)))
	be.PutUint16(fixed[2:], uint16(len(f.pages)))
	be.PutUint32(fixed[4:], uint32(head))
	be.PutUint32(fixed[8:], uint32(plain))
	f.head = b
}

// appendFields appends the fields of the page's form.
func (p *pagePlan) appendFields(b []byte) []byte {
	switch p.form {
	case formDeflated:
		b = binary.AppendUvarint(b, uint64(len(p.diff)))
	case formDifference:
		b = binary.AppendUvarint(p.base.append(b), uint64(len(p.diff)))
	case formReference:
		b = p.equal.append(b)
	}
	if !p.fill.none() {
		b = p.fill.append(b)
	}
	return b
}

func (s slotAt) append(b []byte) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(s.slot)), s.version)
}

// finishBytes makes a BYTES frame.
func (e *Encoder) finishBytes(f *Frame) error {
	c, data := codingPlain, f.Bytes
	if f.Level > LevelRaw && len(data) >= minZstdBytes {
		c = codingZstd
		if err := e.compress(f, c, data); err != nil {
			return err
		}
		data = f.data
	}
	b := appendFrameHeader(f.head[:0], KindBytes, bytesFixedLen+len(data))
	b = binary.BigEndian.AppendUint32(b, uint32(c)<<24|uint32(len(f.Bytes)))
	f.head = b
	f.vectors = append(f.vectors[:0], b, data)
	f.Out = f.vectors
	return nil
}

// minZstdBytes is the least number of bytes that are compressed.
const minZstdBytes = 256
