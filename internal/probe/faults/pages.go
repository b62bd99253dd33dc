package faults

import (
	"bytes"
	"fmt"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/corpus"
)

const pageSize = corpus.PageSize

// distinct is the number of different data pages: 16 MiB, more than caches hold. Larger
// memory has each page several times.
const distinct = 4096

// pages are the data pages, raw and in the form of a qpl packet.
type pages struct {
	raw    []byte   // consecutive pages
	packed [][]byte // page i deflated, or raw if it does not shrink
}

func newPages(n int) (*pages, error) {
	n = min(n, distinct)
	p := &pages{raw: corpus.Generate(1, n), packed: make([][]byte, n)}
	enc := deflate.NewEncoder(deflate.Fast)
	var out [pageSize - 1]byte
	for i := range p.packed {
		page := p.page(i)
		if deflate.IsZero(page) {
			return nil, fmt.Errorf("faults: page %d of the corpus is zero", i)
		}
		if size := enc.Deflate(out[:], page); size > 0 {
			page = bytes.Clone(out[:size])
		}
		p.packed[i] = page
	}
	return p, nil
}

// page returns raw page i. The pages repeat.
func (p *pages) page(i int) []byte {
	i %= len(p.packed)
	return p.raw[i*pageSize:][:pageSize]
}

// carried returns page i in the form of a qpl packet.
func (p *pages) carried(i int) []byte { return p.packed[i%len(p.packed)] }

// inflate inflates one page as a qpl destination does.
func inflate(dec *deflate.Decoder, page, data []byte) error {
	if len(data) == len(page) {
		copy(page, data)
		return nil
	}
	return dec.Inflate(page, data)
}

// group has the offsets in guest memory of one packet of pages of each kind.
type group struct{ data, zero, later []uint64 }

// groups divides the pages of a memory of size bytes into groups. It omits the last pages
// if fewer than three remain.
func groups(size uint64) []group {
	var all []group
	thirds := int(size / pageSize / 3)
	for at := 0; at < thirds; {
		n := min(guest.PacketPages(pageSize), thirds-at)
		var g group
		for i := range n {
			off := uint64(at+i) * 3 * pageSize
			g.data = append(g.data, off)
			g.zero = append(g.zero, off+pageSize)
			g.later = append(g.later, off+2*pageSize)
		}
		all = append(all, g)
		at += n
	}
	return all
}

// check checks that memory holds the pages that arrived and the bytes that the guest wrote.
func (p *pages) check(mem []byte, all []group) error {
	data := 0
	for _, g := range all {
		for _, off := range g.data {
			if !bytes.Equal(mem[off:off+pageSize], p.page(data)) {
				return fmt.Errorf("faults: the page at %#x differs from the page that arrived", off)
			}
			data++
		}
		for _, off := range g.zero {
			if !deflate.IsZero(mem[off : off+pageSize]) {
				return fmt.Errorf("faults: the page at %#x is not zero", off)
			}
		}
		for _, off := range g.later {
			if mem[off] != written || !deflate.IsZero(mem[off+1:off+pageSize]) {
				return fmt.Errorf("faults: the page at %#x differs from what the guest wrote", off)
			}
		}
	}
	return nil
}
