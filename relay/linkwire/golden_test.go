package linkwire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/internal/testfiles"
)

var update = flag.Bool("update", false, "write the golden files and the seed corpora anew")

// fromGolden returns the bytes of a golden file: what stands left of the bar.
func fromGolden(t *testing.T, name string) (b []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".golden"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		digits, _, _ := strings.Cut(line, "|")
		part, times := digits, 1
		if count, rest, ok := strings.Cut(digits, " times "); ok {
			part = rest
			if times, err = strconv.Atoi(count); err != nil {
				t.Fatal(err)
			}
		}
		decoded, err := hex.DecodeString(strings.Join(strings.Fields(part), ""))
		if err != nil {
			t.Fatalf("%s: %q: %v", name, digits, err)
		}
		b = append(b, bytes.Repeat(decoded, times)...)
	}
	return b
}

// annotator writes bytes as docs/link-format.md describes them. It shares no code with
// the Decoder.
type annotator struct {
	t   *testing.T
	b   []byte
	out strings.Builder
}

// line writes n bytes with their meaning.
func (a *annotator) line(n int, format string, args ...any) {
	a.t.Helper()
	if n > len(a.b) {
		a.t.Fatalf("%d bytes are left, %d are wanted for %s\n%s", len(a.b), n, fmt.Sprintf(format, args...), a.out.String())
	}
	field := a.b[:n]
	a.b = a.b[n:]
	text := fmt.Sprintf(format, args...)
	for first := true; len(field) > 0; first = false {
		part := field[:min(16, len(field))]
		times := 1
		for len(part) == 16 && bytes.HasPrefix(field[16*times:], part) {
			times++
		}
		hexed := fmt.Sprintf("% x", part)
		if times > 1 {
			hexed = fmt.Sprintf("%d times %s", times, hexed)
		}
		if !first {
			text = ""
		}
		a.out.WriteString(strings.TrimRight(fmt.Sprintf("%-58s | %s", hexed, text), " ") + "\n")
		field = field[len(part)*times:]
	}
}

func (a *annotator) u(n int, name string) (v uint64) {
	for _, c := range a.b[:min(n, len(a.b))] {
		v = v<<8 | uint64(c)
	}
	a.line(n, "%s = %d", name, v)
	return v
}

func (a *annotator) uvarint(name string) uint64 {
	v, n := binary.Uvarint(a.b)
	a.line(max(n, 1), "%s = %d", name, v)
	return v
}

func (a *annotator) hello() {
	a.line(8, "magic")
	a.u(2, "version")
	if kind := a.u(1, "kind"); kind == 1 {
		a.line(1, "0")
		a.u(4, "reserved")
		a.line(16, "order")
		a.u(8, "number")
		a.u(8, "after")
		a.u(8, "cache")
		a.line(8, "zeros")
		return
	}
	a.line(1, "0")
	a.u(4, "reserved")
	a.u(8, "cache")
	a.line(40, "zeros")
}

func (a *annotator) frame() {
	kind := Kind(a.b[0])
	a.line(1, "kind = %d %v", kind, kind)
	a.line(3, "zeros")
	n := int(a.u(4, "length"))
	rest := a.b[n:]
	a.b = a.b[:n]
	switch kind {
	case KindBytes:
		a.u(1, "coding")
		a.u(3, "length, decoded")
		a.line(len(a.b), "data")
	case KindPacket:
		a.packet()
	case KindCache:
		a.line(16, "id")
		a.u(4, "page size")
	case KindAck:
		a.u(8, "packets")
	case KindReset:
		a.line(n, "reason %q", a.b)
	}
	if len(a.b) > 0 {
		a.t.Fatalf("%d bytes are left over\n%s", len(a.b), a.out.String())
	}
	a.b = rest
}

func (a *annotator) packet() {
	a.u(1, "coding")
	pageSize := 1 << a.u(1, "log2 of the page size")
	count := int(a.u(2, "pages"))
	a.u(4, "length of the head")
	a.u(4, "length of the data, decoded")
	normalAndZero := uint64(0)
	switch form := a.u(1, "header: form"); form {
	case 0:
		n := a.u(2, "header: length")
		a.line(int(n), "header")
	default:
		a.u(4, "header: flags")
		a.u(4, "header: pages at most")
		normalAndZero += a.u(4, "header: normal pages")
		a.u(4, "header: payload")
		a.u(8, "header: packet number")
		normalAndZero += a.u(4, "header: zero pages")
		if n := a.u(1, "header: length of the name"); n < 255 {
			a.line(int(n), "header: name %q", a.b[:n])
		}
		a.uvarint("header: length")
		for done := uint64(0); done < normalAndZero; {
			v, n := binary.Varint(a.b)
			a.line(n, "header: run begins %d pages after the end of the one before", v)
			done += a.uvarint("header: pages of the run")
		}
	}
	forms := bytes.Clone(a.b[:count])
	names := []string{"zero", "raw", "deflated", "difference", "reference"}
	fromCache := false
	for i, f := range forms {
		kept := ""
		if f&0x80 != 0 {
			kept = ", kept"
		}
		fromCache = fromCache || f&0x7f >= 3
		a.line(1, "page %d: form = %s%s", i, names[f&0x7f], kept)
	}
	lengths := make([]uint64, count)
	for i, f := range forms {
		page := fmt.Sprintf("page %d: ", i)
		if f&0x7f == 1 {
			lengths[i] = uint64(pageSize)
		}
		if f&0x7f >= 3 {
			a.uvarint(page + "slot")
			a.uvarint(page + "version")
		}
		if f&0x7f == 2 || f&0x7f == 3 {
			lengths[i] = a.uvarint(page + "length")
		}
		if f&0x80 != 0 {
			a.uvarint(page + "kept in slot")
			a.uvarint(page + "as version")
		}
	}
	if fromCache {
		a.line(16, "digest of the pages from the cache")
	}
	for i, n := range lengths {
		a.line(int(n), "page %d: data", i)
	}
}

// deflatedAs is a page of 4,096 times "a" as raw deflate. It is given here so that no
// encoder has a say in the golden files.
var deflatedAs, _ = hex.DecodeString("edc1010d000000c2a0acef5fc21e0e28000000e0dd00")

// goldenPacket makes a frame of a packet as LevelDeflate does, with deflatedAs for a page
// of "a".
func goldenPacket(t *testing.T, e *Encoder, u Unit) []byte {
	t.Helper()
	f := &Frame{Unit: u, Level: LevelDeflate}
	e.plan(f)
	e.ledger.sent(f.pinned)
	var data []byte
	for i := range f.pages {
		p := &f.pages[i]
		d := p.data()
		if p.form == formRaw && p.page[0] == 'a' {
			p.form, p.diff = formDeflated, deflatedAs
			d = deflatedAs
		}
		data = append(data, d...)
	}
	e.appendHead(f, codingPlain, len(data), len(data))
	return append(bytes.Clone(f.head), data...)
}

// TestFrames_MatchTheGoldenFiles compares what is sent with the golden files, and reads
// these.
func TestFrames_MatchTheGoldenFiles(t *testing.T) {
	const pageSize = 4096
	as, bs := bytes.Repeat([]byte("a"), pageSize), bytes.Repeat([]byte("b"), pageSize)
	e := NewEncoder(nil)
	defer e.Close()
	e.UseCache(NewSenderCache(16*pageSize, pageSize))
	link := new(bytes.Buffer)
	d := NewDecoder(link, nil)
	defer d.Close()
	d.UseCache(NewReceiverCache(16*pageSize, pageSize))
	sync := packetUnit("pc.ram", 0, pageSize)
	binary.BigEndian.PutUint32(sync.Header[flagsAt:], 1)
	odd := packetUnit("pc.ram", 0, 64<<10)
	odd.Header[nameAt+20] = 'x' // after the name
	first := packetUnit("pc.ram", 3, pageSize, bs, as, make([]byte, pageSize))
	again := packetUnit("pc.ram", 3, pageSize, changed(bs, 2), as)
	copy(again.Header[offsetsAt+16:], first.Header[offsetsAt+16:]) // what the packet before has left there
	bytesFrame := func(b []byte) []byte {
		f := &Frame{Unit: Unit{Bytes: b}}
		if err := e.Finish(f); err != nil {
			t.Fatal(err)
		}
		return bytes.Join(f.Out, nil)
	}
	// A zstd stream with one block, which is not compressed.
	stored := cat([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3, 10 << 3, 0, 0}, []byte("0123456789"))
	unit := func(u Unit) []byte { return cat(u.Header, u.Pages) }
	for _, tt := range []struct {
		name  string
		frame []byte
		want  []byte // the connection's bytes
	}{
		{"bytes", bytesFrame([]byte("QEVM")), []byte("QEVM")},
		{"bytes-zstd", frameOf(KindBytes, append([]byte{1, 0, 0, 10}, stored...)...), []byte("0123456789")},
		{"cache", AppendCache(nil, CacheID{0xca, 15: 0xfe}, pageSize), nil},
		{"ack", AppendAck(nil, 258), nil},
		{"end", AppendEnd(nil), nil},
		{"reset", AppendReset(nil, "the QEMU is gone"), nil},
		{"alive", AppendAlive(nil), nil},
		{"close", AppendClose(nil), nil},
		{"packet-sync", goldenPacket(t, e, sync), unit(sync)},
		{"packet-header-bytes", goldenPacket(t, e, odd), unit(odd)},
		{"packet-raw-deflated-zero", goldenPacket(t, e, first), unit(first)},
		{"packet-difference-reference", func() []byte {
			if err := e.Acknowledge(3); err != nil {
				t.Fatal(err)
			}
			return goldenPacket(t, e, again)
		}(), unit(again)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := &annotator{t: t, b: tt.frame}
			a.frame()
			testfiles.Golden(t, *update, tt.name, a.out.String())
			wire := fromGolden(t, tt.name)
			if !bytes.Equal(wire, tt.frame) {
				t.Errorf("the golden file has %d bytes, the frame %d, the first difference is at %d", len(wire), len(tt.frame), firstDifference(wire, tt.frame))
			}
			link.Write(wire)
			var event Event
			if err := d.Next(&event); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(event.Bytes, tt.want) {
				t.Errorf("%d bytes come out, want %d", len(event.Bytes), len(tt.want))
			}
		})
	}
	for name, b := range map[string][]byte{
		"hello": Hello{Order: [16]byte{1, 15: 2}, Number: 3, After: 1, Cache: 64 << 20}.Append(nil),
		"reply": Reply{Cache: 32 << 20}.Append(nil),
	} {
		a := &annotator{t: t, b: b}
		a.hello()
		testfiles.Golden(t, *update, name, a.out.String())
		if wire := fromGolden(t, name); !bytes.Equal(wire, b) {
			t.Errorf("%s: the golden file has %x, want %x", name, wire, b)
		}
	}
}
