package faults

import (
	"bytes"
	"fmt"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/corpus"
)

const pageSize = corpus.PageSize

// distinct is how many data pages there are to choose from: 16 MiB of them,
// more than caches hold. Larger memory has them several times.
const distinct = 4096

// pages are the data pages, as they are and as a qpl packet carries them.
type pages struct {
	raw    []byte   // end to end
	packed [][]byte // page i deflated, or as it is if it does not shrink
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

// page returns page i; the pages repeat.
func (p *pages) page(i int) []byte {
	i %= len(p.packed)
	return p.raw[i*pageSize:][:pageSize]
}

// carried returns page i in the form of a qpl packet.
func (p *pages) carried(i int) []byte { return p.packed[i%len(p.packed)] }

// inflate does what a qpl destination does with one page.
func inflate(dec *deflate.Decoder, page, data []byte) error {
	if len(data) == len(page) {
		copy(page, data)
		return nil
	}
	return dec.Inflate(page, data)
}

// group is what one packet's worth of each kind of page holds: offsets of guest
// memory, kinds in turn page by page.
type group struct{ data, zero, later []uint64 }

// groups deals the pages of a memory of that many bytes out. A rest of fewer
// than three pages is left out.
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

// check says whether the memory holds what came and what the guest wrote.
func (p *pages) check(mem []byte, all []group) error {
	data := 0
	for _, g := range all {
		for _, off := range g.data {
			if !bytes.Equal(mem[off:off+pageSize], p.page(data)) {
				return fmt.Errorf("faults: the page at %#x is not the one that came", off)
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
				return fmt.Errorf("faults: the page at %#x is not what the guest wrote", off)
			}
		}
	}
	return nil
}
