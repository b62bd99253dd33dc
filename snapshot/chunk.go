package snapshot

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sort"
)

// chunk is a loaded index segment of pages.
type chunk struct {
	dense bool
	count int
	b     []byte
}

func (c *chunk) locations() []byte { return c.b[len(c.b)-8*c.count:] }

func (c *chunk) location(i int) location {
	return location(binary.BigEndian.Uint64(c.locations()[8*i:]))
}

// check checks all bytes that a lookup depends on.
func (c *chunk) check(extents, pages uint64) error {
	be := binary.BigEndian
	last := -1
	if c.dense {
		rank := 0
		for i := 0; i < chunkPages; i += rankPages {
			if got := int(be.Uint16(c.b[chunkPages/8+2*(i/rankPages):])); got != rank&0xffff {
				return fmt.Errorf("rank %d at page %d (want %d)", got, i, rank)
			}
			for j, bits8 := range c.b[i/8 : (i+rankPages)/8] {
				rank += bits.OnesCount8(bits8)
				if bits8 != 0 {
					last = i + 8*j + bits.Len8(bits8) - 1
				}
			}
		}
		if rank != c.count {
			return fmt.Errorf("the bitmap has %d bits for %d pages", rank, c.count)
		}
	} else {
		for i := range c.count {
			page := int(be.Uint16(c.b[2*i:]))
			if page <= last {
				return fmt.Errorf("page %d follows page %d", page, last)
			}
			last = page
		}
	}
	if uint64(last) >= pages {
		return fmt.Errorf("page %d is beyond the %d pages of the block", last, pages)
	}
	for i := range c.count {
		if l := c.location(i); l>>8 == 0 || l.extent() >= extents {
			return fmt.Errorf("location %#x is invalid for %d extents", uint64(l), extents)
		}
	}
	return nil
}

// find returns the location of a page of the chunk, or 0 for a zero page. The number of
// steps is bounded: a bit and a rank, or at most eleven comparisons in a short list.
func (c *chunk) find(page uint32) location {
	be := binary.BigEndian
	if !c.dense {
		i := sort.Search(c.count, func(i int) bool { return uint32(be.Uint16(c.b[2*i:])) >= page })
		if i < c.count && uint32(be.Uint16(c.b[2*i:])) == page {
			return c.location(i)
		}
		return 0
	}
	if c.b[page/8]&(1<<(page%8)) == 0 {
		return 0
	}
	group := page / rankPages
	rank := int(be.Uint16(c.b[chunkPages/8+2*group:]))
	for _, bits8 := range c.b[group*rankPages/8 : page/8] {
		rank += bits.OnesCount8(bits8)
	}
	rank += bits.OnesCount8(c.b[page/8] & (1<<(page%8) - 1))
	return c.location(rank)
}

// entries appends all pages of the chunk to dst, in ascending order.
func (c *chunk) entries(dst []entry) []entry {
	i := 0
	if !c.dense {
		for ; i < c.count; i++ {
			dst = append(dst, entry{uint32(binary.BigEndian.Uint16(c.b[2*i:])), c.location(i)})
		}
		return dst
	}
	for j, bits8 := range c.b[:chunkPages/8] {
		for ; bits8 != 0; bits8 &= bits8 - 1 {
			dst = append(dst, entry{uint32(8*j + bits.TrailingZeros8(bits8)), c.location(i)})
			i++
		}
	}
	return dst
}
