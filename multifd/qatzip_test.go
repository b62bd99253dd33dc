package multifd_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/multifd"
)

// member is one gzip member as QATzip makes them: with an extra field that
// says the sizes before and after.
func member(t testing.TB, data []byte, extra bool) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if extra {
		w.Extra = append([]byte{'Q', 'Z', 8, 0}, make([]byte, 8)...)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b := buf.Bytes()
	if extra {
		le := binary.LittleEndian
		le.PutUint32(b[16:], uint32(len(data)))
		le.PutUint32(b[20:], uint32(len(b)-24-8))
	}
	return b
}

func TestQATzip_PacketIsAMemberWithTheExtraField(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("member"), l, "pc.ram", "mixed", 100, 0)
	payload := packets(t, multifd.QATzip, page4K, 0, b)[0][multifd.HeaderLen(page4K):]
	in := bytes.NewReader(payload)
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false)
	got, err := io.ReadAll(z) // which checks the CRC-32 and the size
	if err != nil || !bytes.Equal(got, slices.Concat(b.Data...)) || in.Len() != 0 {
		t.Errorf("%d bytes, %v, %d left over", len(got), err, in.Len())
	}
	le := binary.LittleEndian
	extra := z.Extra
	if len(extra) != 12 || string(extra[:2]) != "QZ" || le.Uint16(extra[2:]) != 8 {
		t.Fatalf("the extra field is %x", extra)
	}
	if src, dst := le.Uint32(extra[4:]), le.Uint32(extra[8:]); int(src) != len(got) || int(dst) != len(payload)-24-8 {
		t.Errorf("it says %d bytes deflated to %d; want %d and %d", src, dst, len(got), len(payload)-24-8)
	}
}

func TestQATzip_PacketMayHaveSeveralMembers(t *testing.T) {
	l := layout(t, page4K)
	b := makeBatch(seeded("members"), l, "pc.ram", "mixed", 32, 0)
	data := slices.Concat(b.Data...)
	for name, cuts := range map[string][]int{
		"one":                   nil,
		"of 64 KiB":             {64 << 10},
		"not of whole pages":    {1, 4095, 4097, 100_000},
		"with one that's empty": {5000, 5000},
	} {
		var payload []byte
		from := 0
		for _, to := range append(slices.Clone(cuts), len(data)) {
			payload = append(payload, member(t, data[from:to], name != "one")...)
			from = to
		}
		mem := memory(t, l)
		p := newRawPacket(page4K, 0x20, "pc.ram", b.Normal, nil, payload)
		if _, err := receiveAll(receiver(t, bytes.NewReader(p.bytes()), multifd.QATzip, l), laneOf(t, mem)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkMemory(t, mem, b)
	}
}

func TestQATzip_PayloadsAreChecked(t *testing.T) {
	page := bytes.Repeat([]byte("page"), page4K/4)
	two := slices.Concat(page, page)
	good := member(t, two, true)
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[(at+len(b))%len(b)] ^= 1
		return b
	}
	for _, tt := range []struct {
		name    string
		payload []byte
		field   string
	}{
		{"no gzip at all", bytes.Repeat([]byte("x"), 100), "gzip header"},
		{"a header cut short", good[:9], "gzip header"},
		{"another method than deflate", flip(2), "gzip header"},
		{"an extra field beyond the payload", func() []byte { b := bytes.Clone(good); b[10], b[11] = 0xff, 0xff; return b }(), "gzip header"},
		{"a page too few", member(t, page, true), "page 2 of 2"},
		{"a page too many", member(t, slices.Concat(two, page), true), "payload"},
		{"a wrong CRC-32", flip(-8), "payload"},
		{"a wrong size", flip(-1), "payload"},
		{"a trailer cut short", good[:len(good)-4], "payload"},
		{"rubbish behind the member", append(bytes.Clone(good), "rubbish behind it"...), "payload"},
		{"a member too many", append(bytes.Clone(good), good...), "payload"},
		{"cut short within the data", good[:40], "page 1 of 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := layout(t, page4K)
			p := newRawPacket(page4K, 0x20, "pc.ram", offsets(page4K, 1, 5), nil, tt.payload)
			_, err := receiveAll(receiver(t, bytes.NewReader(p.bytes()), multifd.QATzip, l), laneOf(t, memory(t, l)))
			wantChannelError(t, err, multifd.ErrMalformed, 1, tt.field)
		})
	}
}

func TestQATzip_PacketsAreIndependent(t *testing.T) {
	l := layout(t, page4K)
	r := seeded("alone")
	a, b := makeBatch(r, l, "pc.ram", "text", 10, 0), makeBatch(r, l, "pc.ram", "text", 10, 0)
	wires := packets(t, multifd.QATzip, page4K, 0, a, b)
	mem := memory(t, l)
	if _, err := receiveAll(receiver(t, bufio.NewReader(bytes.NewReader(wires[1])), multifd.QATzip, l), laneOf(t, mem)); err != nil {
		t.Fatalf("the second packet without the first: %v", err)
	}
	checkMemory(t, mem, b)
}
