package linkwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/guest"
)

// rawPacket is a PACKET frame part by part.
type rawPacket struct {
	coding    coding
	shift     byte
	pages     int
	header    []byte // a channel's header as it is encoded
	plan      []byte // forms, fields and digest
	plain     int    // length of the data, decoded; -1 for that of data
	data      []byte
	headExtra int // added to the length of the head
}

func (p rawPacket) frame() []byte {
	be := binary.BigEndian
	if p.plain < 0 {
		p.plain = len(p.data)
	}
	head := append(bytes.Clone(p.header), p.plan...)
	b := appendFrameHeader(nil, KindPacket, packetFixedLen+len(head)+len(p.data))
	b = append(b, byte(p.coding), p.shift)
	b = be.AppendUint16(b, uint16(p.pages))
	b = be.AppendUint32(b, uint32(len(head)+p.headExtra))
	b = be.AppendUint32(b, uint32(p.plain))
	return append(append(b, head...), p.data...)
}

// plainHeader is a header of 320 bytes that is encoded as its own bytes.
func plainHeader() []byte {
	return append(binary.BigEndian.AppendUint16([]byte{headerBytes}, offsetsAt), make([]byte, offsetsAt)...)
}

// packetOf has pages of 1 KiB.
func packetOf(pages int, data []byte, plan ...byte) []byte {
	return rawPacket{shift: 10, pages: pages, header: plainHeader(), plan: plan, plain: -1, data: data}.frame()
}

// fieldsHeader is a header by fields, and what is put in place of its parts.
func fieldsHeader(form byte, normal uint32, name, rest []byte) []byte {
	b := append([]byte{form}, make([]byte, zeroAt+4-flagsAt)...)
	binary.BigEndian.PutUint32(b[1+normalAt-flagsAt:], normal)
	return append(append(b, name...), rest...)
}

func uvarints(values ...uint64) (b []byte) {
	for _, v := range values {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func frameOf(kind Kind, body ...byte) []byte {
	return append(appendFrameHeader(nil, kind, len(body)), body...)
}

// lengthOf is a frame's header that names a length, without the body.
func lengthOf(kind Kind, n uint32) []byte { return appendFrameHeader(nil, kind, int(n)) }

func TestDecoder_MalformedFrames(t *testing.T) {
	page := make([]byte, 1024)
	deflated := bytes.Repeat([]byte{0xff}, 9) // no deflate stream
	tooLong := bytes.Repeat([]byte{0xff}, 11) // no uvarint
	header := func(b []byte) []byte { return rawPacket{shift: 10, header: b, plain: -1}.frame() }
	digest := make([]byte, digestLen)
	for _, tt := range []struct {
		name string
		link []byte
		says string
	}{
		{"kind 0", []byte{0, 0, 0, 0, 0, 0, 0, 0}, "frame of kind 0 is unknown"},
		{"kind 9", lengthOf(9, 0), "frame of kind 9 is unknown"},
		{"kind 255", lengthOf(255, 0), "frame of kind 255 is unknown"},
		{"a reserved byte", []byte{byte(KindEnd), 0, 1, 0, 0, 0, 0, 0}, "END: reserved bytes"},
		{"END with a body", frameOf(KindEnd, 1), "END: 1 bytes"},
		{"ALIVE with a body", frameOf(KindAlive, 1), "ALIVE: 1 bytes"},
		{"CLOSE with a body", frameOf(KindClose, 1), "CLOSE: 1 bytes"},
		{"a short ACK", frameOf(KindAck, 1), "ACK: 1 bytes (want 8 to 8)"},
		{"a long ACK", lengthOf(KindAck, 9), "ACK: 9 bytes"},
		{"a short CACHE", lengthOf(KindCache, 19), "CACHE: 19 bytes"},
		{"a long CACHE", lengthOf(KindCache, 21), "CACHE: 21 bytes"},
		{"a long RESET", lengthOf(KindReset, MaxReason+1), "RESET: 1025 bytes"},
		{"a short BYTES", frameOf(KindBytes, 0, 0, 0), "BYTES: 3 bytes"},
		{"a long BYTES", lengthOf(KindBytes, 1<<20), "BYTES: 1048576 bytes"},
		{"a short PACKET", lengthOf(KindPacket, packetFixedLen-1), "PACKET: 11 bytes"},
		{"a long PACKET", lengthOf(KindPacket, maxPayload+1), "PACKET: "},
		{"the longest length", lengthOf(KindPacket, math.MaxUint32), "PACKET: 4294967295 bytes"},

		{"a cache of small pages", AppendCache(nil, CacheID{}, 512), "CACHE: pages of 512 bytes"},
		{"a cache of large pages", AppendCache(nil, CacheID{}, 1<<17), "CACHE: pages of 131072 bytes"},
		{"a cache of odd pages", AppendCache(nil, CacheID{}, 4097), "CACHE: pages of 4097 bytes"},
		{"a second cache", cat(AppendCache(nil, CacheID{1}, 4096), AppendCache(nil, CacheID{2}, 4096)), "CACHE: the connection has a cache already"},

		{"bytes: an unknown coding", frameOf(KindBytes, 3, 0, 0, 1, 7), "BYTES: coding 3"},
		{"bytes: fewer than named", frameOf(KindBytes, 0, 0, 0, 2, 7), "BYTES: 2 bytes, but 1 follow"},
		{"bytes: more than named", frameOf(KindBytes, 0, 0, 0, 0, 7), "BYTES: 0 bytes, but 1 follow"},
		{"bytes: too many", frameOf(KindBytes, 1, 4, 0, 1, 7), "BYTES: 262145 bytes (at most 262144)"},
		{"bytes: no zstd", frameOf(KindBytes, 1, 0, 0, 1, 7, 7, 7, 7, 7, 7), "BYTES: zstd: "},
		{"bytes: zstd without data", frameOf(KindBytes, 2, 0, 0, 1), "BYTES: zstd: "},
		{"bytes: zstd ends early", frameOf(KindBytes, append([]byte{1, 0, 0, 9}, zstdOf(t, []byte("8 bytes."))...)...), "BYTES: zstd: the data of the frame ends too early"},
		{"bytes: data after zstd", frameOf(KindBytes, append([]byte{1, 0, 0, 0}, 1)...), "BYTES: zstd: 1 bytes are left over"},
		{"bytes: a zstd window of 1 GiB", frameOf(KindBytes, 1, 0, 0, 1, 0x28, 0xb5, 0x2f, 0xfd, 0, 20<<3, 1, 0, 0), "BYTES: zstd: window size exceeded"},
		{"bytes: a zstd segment of 1 GiB", frameOf(KindBytes, 1, 0, 0, 1, 0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x40, 1, 0, 0), "BYTES: zstd: decompressed size exceeds"},

		{"packet: an unknown coding", rawPacket{coding: 3, shift: 10, pages: 1, header: plainHeader(), plan: []byte{byte(formRaw)}, plain: -1, data: page}.frame(), "PACKET: coding 3"},
		{"packet: small pages", rawPacket{shift: 9, header: plainHeader(), plain: -1}.frame(), "PACKET: pages of 2^9 bytes"},
		{"packet: large pages", rawPacket{shift: 17, header: plainHeader(), plain: -1}.frame(), "PACKET: pages of 2^17 bytes"},
		{"packet: pages of 2^255", rawPacket{shift: 255, header: plainHeader(), plain: -1}.frame(), "PACKET: pages of 2^255 bytes"},
		{"packet: too many pages", rawPacket{shift: 16, pages: 9, header: plainHeader(), plain: -1}.frame(), "PACKET: 9 pages of 65536 bytes (at most 8)"},
		{"packet: a head beyond the body", rawPacket{shift: 10, header: plainHeader(), plain: -1, headExtra: 1}.frame(), "PACKET: a head of 324 bytes in a body of 323"},
		{"packet: a head beyond all bounds", rawPacket{shift: 10, header: plainHeader(), plain: -1, headExtra: maxHead}.frame(), "PACKET: a head of"},
		{"packet: too much data", rawPacket{coding: codingZstd, shift: 10, header: plainHeader(), plain: maxData + 1}.frame(), "PACKET: 524289 bytes of data (at most 524288)"},
		{"packet: less data than named", rawPacket{shift: 10, pages: 1, header: plainHeader(), plan: []byte{byte(formRaw)}, plain: 1024, data: page[1:]}.frame(), "PACKET: 1024 bytes of data, but 1023 follow"},
		{"packet: forms are missing", packetOf(2, nil, byte(formZero)), "PACKET: the frame ends in a field of 2 bytes, after 1"},
		{"packet: an unknown form", packetOf(1, nil, byte(forms)), "PACKET: page 0 has form 5"},
		{"packet: an unknown form, kept", packetOf(1, nil, byte(forms|formKept)), "PACKET: page 0 has form 5"},
		{"packet: data of a zero page", packetOf(1, page, byte(formZero)), "PACKET: the pages have 0 bytes of data, but the frame has 1024"},
		{"packet: a raw page without data", packetOf(1, nil, byte(formRaw)), "PACKET: the pages have 1024 bytes of data, but the frame has 0"},
		{"packet: deflated without a length", packetOf(1, nil, byte(formDeflated)), "PACKET: a number is incomplete"},
		{"packet: deflated to nothing", packetOf(1, nil, byte(formDeflated), 0), "PACKET: page 0 has 0 bytes of data, in form 2"},
		{"packet: deflated to a page", packetOf(1, page, append([]byte{byte(formDeflated)}, uvarints(1024)...)...), "PACKET: page 0 has 1024 bytes of data, in form 2"},
		{"packet: a length without end", packetOf(1, nil, append([]byte{byte(formDeflated)}, tooLong...)...), "PACKET: a number is incomplete or too long"},
		{"packet: no deflate stream", packetOf(1, deflated, byte(formDeflated), byte(len(deflated))), "PACKET: deflated page 0: "},
		{"packet: kept without a slot", packetOf(1, nil, byte(formZero|formKept)), "PACKET: a number is incomplete"},
		{"packet: kept as version 0", packetOf(1, nil, byte(formZero|formKept), 1, 0), "PACKET: version 0 of a slot"},
		{"packet: a reference to version 0", packetOf(1, nil, append([]byte{byte(formReference), 1, 0}, digest...)...), "PACKET: version 0 of a slot"},
		{"packet: a reference without a digest", packetOf(1, nil, byte(formReference), 1, 1), "PACKET: the frame ends in a field of 16 bytes, after 0"},
		{"packet: a difference of a page's length", packetOf(1, page, append([]byte{byte(formDifference), 1, 1}, uvarints(1024)...)...), "PACKET: page 0 has 1024 bytes of data, in form 3"},
		{"packet: a digest that is not needed", packetOf(1, nil, append([]byte{byte(formZero)}, digest...)...), "PACKET: 16 bytes are left over in the head"},
		{"packet: no zstd", rawPacket{coding: codingZstd, shift: 10, pages: 1, header: plainHeader(), plan: []byte{byte(formRaw)}, plain: 1024, data: page}.frame(), "PACKET: zstd: "},
		{"packet: data after zstd", rawPacket{coding: codingZstd, shift: 10, header: plainHeader(), plain: 0, data: page}.frame(), "PACKET: zstd: 1024 bytes are left over"},

		{"header: unknown form", header([]byte{3}), "PACKET: form 3 of a channel's header"},
		{"header: no bytes at all", header(nil), "PACKET: the frame ends in a field of 1 bytes, after 0"},
		{"header: bytes that are too few", header([]byte{headerBytes, 1, 63}), "PACKET: a channel's header of 319 bytes"},
		{"header: bytes that are too many", header([]byte{headerBytes, 0xff, 0xff}), "PACKET: a channel's header of 65535 bytes"},
		{"header: bytes that are missing", header([]byte{headerBytes, 1, 64, 0}), "PACKET: the frame ends in a field of 320 bytes, after 1"},
		{"header: a length that is missing", header([]byte{headerBytes, 1}), "PACKET: the frame ends in a field of 2 bytes, after 1"},
		{"header: fields that are missing", header([]byte{headerCleared, 1, 2}), "PACKET: the frame ends in a field of 28 bytes, after 2"},
		{"header: a name that is missing", header(fieldsHeader(headerCleared, 0, []byte{5, 'p'}, nil)), "PACKET: the frame ends in a field of 5 bytes, after 1"},
		{"header: a length that is too short", header(fieldsHeader(headerCleared, 0, []byte{0}, uvarints(offsetsAt-1))), "PACKET: a channel's header of 319 bytes"},
		{"header: a length that is too long", header(fieldsHeader(headerCleared, 0, []byte{0}, uvarints(math.MaxUint64))), "PACKET: a channel's header of 18446744073709551615 bytes"},
		{"header: a name before that is missing", header(fieldsHeader(headerCleared, 0, []byte{sameName}, uvarints(offsetsAt))), "PACKET: a channel's header refers to one before"},
		{"header: a header before that is missing", header(fieldsHeader(headerStale, 0, []byte{0}, uvarints(offsetsAt))), "PACKET: a channel's header refers to one before"},
		{"header: a header before of another length", cat(header(plainHeader()), header(fieldsHeader(headerStale, 0, []byte{0}, uvarints(offsetsAt+8)))), "PACKET: a channel's header refers to one before"},
		{"header: an empty run", header(fieldsHeader(headerCleared, 1, []byte{0}, uvarints(offsetsAt+8, 0, 0))), "PACKET: a run of 0 offsets, with 1 missing"},
		{"header: a run that is too long", header(fieldsHeader(headerCleared, 1, []byte{0}, uvarints(offsetsAt+8, 0, math.MaxUint64))), "PACKET: a run of 18446744073709551615 offsets, with 1 missing"},
		{"header: runs that are missing", header(fieldsHeader(headerCleared, 2, []byte{0}, uvarints(offsetsAt+16, 0, 1))), "PACKET: a number is incomplete"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := decodeAll(t, tt.link, nil)
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("got %v, want ErrMalformed", err)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q does not say %q", err, tt.says)
			}
		})
	}
}

// zstdOf is a zstd stream of b that is flushed and not ended.
func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// decodeAll decodes a link until its end or an error. An error comes without bytes.
func decodeAll(t testing.TB, link []byte, c *ReceiverCache) error {
	t.Helper()
	d := NewDecoder(bytes.NewReader(link), nil)
	defer d.Close()
	d.UseCache(c)
	for {
		var e Event
		err := d.Next(&e)
		if err == nil {
			continue
		}
		if e.Bytes != nil {
			t.Errorf("%d bytes come with the error %v", len(e.Bytes), err)
		}
		if d.Read() > uint64(len(link)) {
			t.Errorf("%d bytes were read of %d", d.Read(), len(link))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

func TestDecoder_CachesThatDiffer(t *testing.T) {
	const pageSize = 1024
	digest := make([]byte, digestLen)
	store := packetOf(1, nil, byte(formZero|formKept), 2, 7) // slot 2, version 7
	reference := func(slot, version uint64, digest []byte) []byte {
		return packetOf(1, nil, cat([]byte{byte(formReference)}, uvarints(slot, version), digest)...)
	}
	for _, tt := range []struct {
		name      string
		cacheSize int64
		cachePage int
		link      []byte
		says      string
	}{
		{"no cache to load from", 0, pageSize, reference(0, 1, digest), "page 0 of a packet: linkwire: the caches of the two relays differ: this side has no cache of pages of 1024 bytes"},
		{"no cache to store to", 0, pageSize, store, "this side has no cache of pages of 1024 bytes"},
		{"a cache of other pages to load from", 1 << 20, 4096, reference(0, 1, digest), "this side has no cache of pages of 1024 bytes"},
		{"a cache of other pages to store to", 1 << 20, 4096, store, "this side has no cache of pages of 1024 bytes"},
		{"an empty slot", 8 * pageSize, pageSize, reference(2, 7, digest), "slot 2 does not hold version 7"},
		{"a newer version", 8 * pageSize, pageSize, cat(store, reference(2, 8, digest)), "slot 2 does not hold version 8"},
		{"an older version", 8 * pageSize, pageSize, cat(store, reference(2, 6, digest)), "slot 2 does not hold version 6"},
		{"a slot beyond the cache", 8 * pageSize, pageSize, reference(8, 7, digest), "slot 8 does not hold version 7"},
		{"the last slot", 8 * pageSize, pageSize, reference(math.MaxUint64, 7, digest), "slot 16777216 does not hold version 7"},
		{"a version stored twice", 8 * pageSize, pageSize, cat(store, store), "version 7 cannot be put into slot 2 of 8"},
		{"a slot to store beyond the cache", 2 * pageSize, pageSize, store, "version 7 cannot be put into slot 2 of 2"},
		{"another page", 8 * pageSize, pageSize, cat(store, reference(2, 7, digest)), "the digest of a packet's pages is another"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := decodeAll(t, tt.link, NewReceiverCache(tt.cacheSize, tt.cachePage))
			if !errors.Is(err, ErrCacheMismatch) || errors.Is(err, ErrMalformed) {
				t.Fatalf("got %v, want ErrCacheMismatch", err)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q does not say %q", err, tt.says)
			}
		})
	}
}

// TestDecoder_MalformedDifferences: the base is known, the difference is not.
func TestDecoder_MalformedDifferences(t *testing.T) {
	store := packetOf(1, nil, byte(formZero|formKept), 0, 1)
	for _, diff := range [][]byte{
		{0x80}, {1}, {1, 0x80}, {0, 1, 1, 2, 3, 4, 5, 6, 7}, uvarints(129, 0), uvarints(128, 1), uvarints(math.MaxUint64, 1), uvarints(1, math.MaxUint64),
		cat(uvarints(0, 1), make([]byte, 8), uvarints(128, 0)),
	} {
		plan := cat([]byte{byte(formDifference), 0, 1, byte(len(diff))}, make([]byte, digestLen))
		err := decodeAll(t, cat(store, packetOf(1, diff, plan...)), NewReceiverCache(4096, 1024))
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "page 0: a difference that") {
			t.Errorf("%x: got %v", diff, err)
		}
	}
}

// TestDecoder_TruncatedLink cuts a link that has every kind of frame at each place.
func TestDecoder_TruncatedLink(t *testing.T) {
	link := everyFrame(t)
	bounds := map[int]bool{0: true}
	for at := 0; at < len(link); {
		at += frameHeaderLen + int(binary.BigEndian.Uint32(link[at+4:]))
		bounds[at] = true
	}
	for n := range link {
		if n > 200 && n < len(link)-200 && n%7 > 0 && !bounds[n] {
			continue
		}
		err := decodeAll(t, link[:n], NewReceiverCache(8*1024, 1024))
		if bounds[n] && err != nil || !bounds[n] && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d of %d: got %v", n, len(link), err)
		}
	}
}

// everyFrame is a link with each kind of frame and page. Its pages have 1 KiB.
func everyFrame(t testing.TB) []byte {
	t.Helper()
	p := newPair(t, 8*1024, 1024)
	link := AppendCache(nil, CacheID{1, 2, 3}, 1024)
	link = append(link, AppendAck(nil, 0)...)
	link = append(link, AppendAlive(nil)...)
	a := randomPage(1, 1024)
	for _, u := range []struct {
		unit  Unit
		level Level
	}{
		{Unit{Bytes: []byte("some bytes")}, LevelRaw},
		{Unit{Bytes: bytes.Repeat([]byte("some bytes "), 100)}, LevelZstd},
		{packetUnit("pc.ram", 0, 1024, a, make([]byte, 1024), bytes.Repeat([]byte("ab"), 512)), LevelDeflate},
		{packetUnit("pc.ram", 0, 1024, changed(a, 3), a), LevelDeflate},
		{packetUnit("pc.ram", 7, 1024, bytes.Repeat([]byte("word"), 256)), LevelZstd},
		{packetUnit("pc.ram", 7, 1024, bytes.Repeat([]byte("wood"), 256)), LevelZstdBetter},
	} {
		p.sendUnit(t, u.unit, u.level, true)
		link = append(link, p.last...)
	}
	if f := p.forms; f.Zero == 0 || f.Raw == 0 || f.Deflated == 0 || f.Difference == 0 || f.Reference == 0 {
		t.Fatalf("forms %+v, want some of each", f)
	}
	link = append(link, AppendReset(nil, "a reason")...)
	return append(append(link, AppendEnd(nil)...), AppendClose(nil)...)
}

// TestDecoder_MemoryFollowsTheBounds: a frame's lengths are checked before memory is
// taken for them.
func TestDecoder_MemoryFollowsTheBounds(t *testing.T) {
	const most = 2 << 20
	bomb := func(plain int) []byte { // blocks of 128 KiB of the same byte, in 4 bytes each
		b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3} // a window of 128 KiB
		for range 1000 {
			b = append(b, 0x02, 0, 0x10, 'x')
		}
		return frameOf(KindBytes, append([]byte{1, byte(plain >> 16), byte(plain >> 8), byte(plain)}, b...)...)
	}
	for name, link := range map[string][]byte{
		"a PACKET that ends":   cat(lengthOf(KindPacket, maxPayload), []byte{0, 12, 0, 128, 0, 1, 0, 0, 0, 8, 0, 0}),
		"a BYTES that ends":    cat(lengthOf(KindBytes, bytesFixedLen+MaxBytes), []byte{0, 4, 0, 0}),
		"a zstd bomb":          bomb(1000),
		"a zstd bomb, at most": bomb(MaxBytes),
	} {
		t.Run(name, func(t *testing.T) {
			if n := allocated(func() { decodeAll(t, link, nil) }); n > most {
				t.Errorf("%d bytes were allocated for a link of %d (at most %d)", n, len(link), most)
			}
		})
	}
}

// TestFrames_KindsHaveNames also shows the bound of a packet.
func TestFrames_KindsHaveNames(t *testing.T) {
	want := []string{"frame of kind 0", "BYTES", "PACKET", "CACHE", "ACK", "END", "RESET", "ALIVE", "CLOSE", "frame of kind 9"}
	for i, name := range want {
		if got := Kind(i).String(); got != name {
			t.Errorf("kind %d is %q, want %q", i, got, name)
		}
	}
	// The longest head: a header by its bytes, and pages that are differences and kept.
	pages := guest.PacketPages(guest.MinPageSize)
	if longest := 3 + maxHeaderLen + pages*(1+2*(4+10)+2) + digestLen; longest > maxHead {
		t.Errorf("a head can have %d bytes, the bound is %d", longest, maxHead)
	}
}

func TestAppendReset_CutsTheReason(t *testing.T) {
	link := AppendReset(nil, strings.Repeat("r", 5000))
	d := NewDecoder(bytes.NewReader(link), nil)
	defer d.Close()
	var e Event
	if err := d.Next(&e); err != nil || e.Kind != KindReset || len(e.Reason) != MaxReason {
		t.Errorf("got %v with %d bytes, %v", e.Kind, len(e.Reason), err)
	}
}
