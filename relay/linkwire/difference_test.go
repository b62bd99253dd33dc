package linkwire

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// naiveDifference makes a difference word by word.
func naiveDifference(base, page []byte) (diff []byte) {
	differs := func(i int) bool { return !bytes.Equal(base[8*i:8*i+8], page[8*i:8*i+8]) }
	words := len(page) / 8
	for i := 0; i < words; {
		same := 0
		for ; i < words && !differs(i); i++ {
			same++
		}
		if i == words {
			break
		}
		first := i
		for ; i < words && differs(i); i++ {
		}
		diff = binary.AppendUvarint(diff, uint64(same))
		diff = binary.AppendUvarint(diff, uint64(i-first))
		diff = append(diff, page[8*first:8*i]...)
	}
	return diff
}

func TestDifference_EqualsTheNaiveOne(t *testing.T) {
	for seed := range uint64(times(5000, 200000)) {
		rnd := rand.New(rand.NewPCG(seed, 6))
		size := []int{1024, 4096, 65536}[rnd.IntN(3)]
		base := randomPage(seed%7, size)
		page := bytes.Clone(base)
		for range rnd.IntN(12) {
			n := 1 + rnd.IntN(40)
			for at := rnd.IntN(size); n > 0 && at < size; at, n = at+1, n-1 {
				page[at] = byte(rnd.Uint32())
			}
		}
		want := naiveDifference(base, page)
		most := rnd.IntN(size/2 + 1)
		before := []byte("before")
		got, ok := appendDifference(before, base, page, most)
		if !ok {
			// The bound counts the longest numbers.
			if len(want)+2*binary.MaxVarintLen16 <= most || string(got) != "before" {
				t.Fatalf("seed %d: no difference of at most %d bytes, but it has %d; %d bytes are left", seed, most, len(want), len(got))
			}
			continue
		}
		if got = got[len(before):]; !bytes.Equal(got, want) || len(got) > most {
			t.Fatalf("seed %d: %x, want %x of at most %d bytes", seed, got, want, most)
		}
		copied := bytes.Clone(base)
		if err := applyDifference(copied, got); err != nil || !bytes.Equal(copied, page) {
			t.Fatalf("seed %d: the page comes out different, %v", seed, err)
		}
	}
}

// TestHeaderCoder_KeepsEveryHeader encodes headers that follow from their fields, ones
// that a field contradicts, and ones that are no headers at all.
func TestHeaderCoder_KeepsEveryHeader(t *testing.T) {
	for seed := range uint64(times(400, 20000)) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		pageSize := 1024 << rnd.IntN(7)
		var enc, dec headerCoder
		h := make([]byte, 0, maxHeaderLen)
		for range 30 {
			h = nextHeader(rnd, h, pageSize)
			b := enc.append([]byte("before"), h, pageSize)
			r := &reader{b: b[len("before"):], kind: KindPacket}
			got := dec.read(r, pageSize)
			if r.err != nil || !bytes.Equal(got, h) {
				t.Fatalf("seed %d: form %d: %v, the first difference is at %d", seed, b[len("before")], r.err, firstDifference(got, h))
			}
			if len(r.b) > 0 {
				t.Fatalf("seed %d: %d bytes are left over", seed, len(r.b))
			}
			if most := 3 + len(h); len(b)-len("before") > most {
				t.Fatalf("seed %d: a header of %d bytes became %d", seed, len(h), len(b))
			}
		}
	}
}

// nextHeader makes a header in the memory of the one before, which it may leave in parts.
func nextHeader(rnd *rand.Rand, h []byte, pageSize int) []byte {
	capacity := (512 << 10) / pageSize
	n := offsetsAt + 8*capacity
	if rnd.IntN(8) == 0 {
		n = offsetsAt + rnd.IntN(maxHeaderLen-offsetsAt+1)
	}
	if len(h) != n || rnd.IntN(2) == 0 {
		h = make([]byte, n)
	}
	normal := rnd.IntN(capacity + 1)
	zero := rnd.IntN(capacity - normal + 1)
	putHeader(h, rnd.Uint32(), capacity, normal, zero, rnd.IntN(1<<20), rnd.Uint64(), []string{"pc.ram", "", "vga.vram"}[rnd.IntN(3)])
	at := rnd.Uint64N(1 << 40)
	for i := offsetsAt; i+8 <= n && i < offsetsAt+8*(normal+zero); i += 8 {
		if rnd.IntN(6) == 0 {
			at = rnd.Uint64() >> rnd.IntN(64)
		}
		binary.BigEndian.PutUint64(h[i:], at*uint64(pageSize))
		at++
	}
	switch rnd.IntN(6) {
	case 0:
		for range 1 + rnd.IntN(3) {
			h[rnd.IntN(n)] ^= byte(1 << rnd.IntN(8))
		}
	case 1: // more pages than offsets
		binary.BigEndian.PutUint32(h[normalAt:], rnd.Uint32())
		binary.BigEndian.PutUint32(h[zeroAt:], rnd.Uint32())
	case 2: // a name without an end
		for i := nameAt; i < offsetsAt-rnd.IntN(2); i++ {
			h[i] = 'n'
		}
	}
	return h
}

// TestHeaderCoder_IsShort: a header that QEMU sends takes few bytes.
func TestHeaderCoder_IsShort(t *testing.T) {
	const pageSize = 4096
	var c headerCoder
	for i, most := range []int{60, 60} {
		h := make([]byte, offsetsAt+8*128)
		putHeader(h, 0, 128, 128, 0, 128*pageSize, uint64(i), "pc.ram")
		for j := range 128 {
			putOffset(h, j, uint64(j+i*128)*pageSize)
		}
		if n := len(c.append(nil, h, pageSize)); n > most {
			t.Errorf("header %d takes %d bytes, at most %d are right", i, n, most)
		}
	}
}
