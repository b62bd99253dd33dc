package linkwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/vmferry/vmferry/internal/seed"
	"github.com/vmferry/vmferry/multifd"
)

func addSeed(f *testing.F, name string, args ...any) {
	f.Helper()
	seed.Add(f, *update, name, args...)
}

// FuzzDecoder gives any bytes to a Decoder with a small cache. An error says that the
// link is at fault, and memory stays bounded.
func FuzzDecoder(f *testing.F) {
	const pageSize = 1024
	link := everyFrame(f)
	addSeed(f, "every-kind", link)
	for at, i := 0, 0; at < len(link); i++ {
		n := frameHeaderLen + int(binary.BigEndian.Uint32(link[at+4:]))
		if Kind(link[at]) == KindPacket || Kind(link[at]) == KindBytes {
			addSeed(f, "frame-"+string(rune('a'+i)), link[at:at+n])
		}
		at += n
	}
	addSeed(f, "header-by-fields", rawPacket{shift: 10, header: fieldsHeader(headerCleared, 3, []byte{2, 'p', 'c'}, uvarints(offsetsAt+24, 4, 3)), plain: -1}.frame())
	addSeed(f, "difference", cat(packetOf(1, nil, byte(formZero|formKept), 0, 1), packetOf(1, uvarints(2, 0), append([]byte{byte(formDifference), 0, 1, 2}, make([]byte, digestLen)...)...)))
	f.Fuzz(func(t *testing.T, link []byte) {
		cache := NewReceiverCache(8*pageSize, pageSize)
		d := NewDecoder(bytes.NewReader(link), nil)
		defer d.Close()
		d.UseCache(cache)
		var frames int
		used := allocated(func() {
			for {
				var e Event
				err := d.Next(&e)
				if err == nil {
					frames++
					continue
				}
				if e.Bytes != nil {
					t.Errorf("%d bytes come with the error %v", len(e.Bytes), err)
				}
				if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrCacheMismatch) && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
					t.Errorf("%v does not say that the link is at fault", err)
				}
				if err == io.EOF && d.Read() != uint64(len(link)) {
					t.Errorf("the link ended after %d bytes of %d", d.Read(), len(link))
				}
				return
			}
		})
		// The decoder's own memory, the windows of two zstd streams, and what deflate
		// needs whenever the page size changes.
		if most := uint64(40<<20 + frames<<18); used > most {
			t.Errorf("%d frames of %d bytes took %d bytes of memory (at most %d)", frames, len(link), used, most)
		}
	})
}

// FuzzPair sends any stream in any fragments at any levels through a pair. How is a seed
// of the fragments, the levels and the acknowledgements.
func FuzzPair(f *testing.F) {
	h := func(flags uint32, normal, zero, size int) []byte {
		h := make([]byte, multifd.HeaderLen(65536)) // the shortest header, so that seeds are small
		putHeader(h, flags, 8, normal, zero, size, 3, "pc.ram")
		for i := range normal + zero {
			putOffset(h, i, uint64(i)*65536)
		}
		return h
	}
	handshake := multifd.Handshake{ID: 1, UUID: [16]byte{1}}.Append(nil)
	page := bytes.Repeat([]byte("page"), 65536/4)
	addSeed(f, "main-channel", byte(0), byte(1), []byte("QEVM\x00\x00\x00\x03"))
	addSeed(f, "silent", byte(1), byte(1), []byte{})
	addSeed(f, "zero-pages-and-sync", byte(2), byte(2), cat(handshake, h(0, 0, 5, 0), h(1, 0, 0, 0)))
	addSeed(f, "compressed", byte(3), byte(3), cat(handshake, h(uint32(multifd.FlagZlib), 1, 0, 9), []byte("payload..")))
	addSeed(f, "pages", byte(4), byte(2), cat(handshake, h(0, 1, 1, 65536), page, h(0, 1, 1, 65536), page, h(1, 0, 0, 0)))
	addSeed(f, "pages-that-end", byte(5), byte(4), cat(handshake, h(0, 2, 0, 2*65536), page[:100]))
	addSeed(f, "another-size", byte(6), byte(5), cat(handshake, h(0, 2, 0, 5)))
	f.Fuzz(func(t *testing.T, how, levels byte, stream []byte) {
		rnd := rand.New(rand.NewPCG(uint64(how), uint64(levels)))
		p := newPair(t, 1<<20, 65536)
		choice := []Level{Level(levels % 4), Level(levels / 4 % 4)}
		p.carry(t, rnd, stream, how%2 == 1, choice...)
		if !bytes.Equal(p.out, stream) {
			t.Errorf("%d bytes came out, %d went in, the first difference is at %d", len(p.out), len(stream), firstDifference(p.out, stream))
		}
	})
}

// FuzzHello: what is taken is what would be sent.
func FuzzHello(f *testing.F) {
	addSeed(f, "hello", Hello{Order: [16]byte{1}, Number: 2, After: 1, Cache: 64 << 20}.Append(nil))
	addSeed(f, "reply", Reply{Cache: 1 << 20}.Append(nil))
	addSeed(f, "main-channel", []byte("QEVM"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		check := func(again []byte, meaning int, err error) {
			if err == nil {
				if !bytes.Equal(again[:11], wire[:11]) || !bytes.Equal(again[16:meaning], wire[16:meaning]) {
					t.Errorf("%x was taken for %x", wire[:helloLen], again)
				}
				return
			}
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v does not say that the peer is at fault", err)
			}
		}
		h, err := ReadHello(bytes.NewReader(wire))
		check(h.Append(nil), 56, err)
		r, err := ReadReply(bytes.NewReader(wire))
		check(r.Append(nil), 24, err)
	})
}
