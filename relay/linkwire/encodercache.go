package linkwire

import (
	"bytes"
	"encoding/binary"

	"github.com/zeebo/blake3"

	"github.com/vmferry/vmferry/guest"
)

// consultCache finds pages that the other side has, or has an older version of, and
// chooses which of the others it keeps.
func (e *Encoder) consultCache(f *Frame) {
	block, ok := e.cache.blockNumber(f.Header[nameAt:offsetsAt])
	if !ok {
		return
	}
	for i := range f.pages {
		if p := &f.pages[i]; p.form != formZero {
			p.place = place{block, binary.BigEndian.Uint64(f.Header[offsetsAt+8*i:])}
			p.hash = contentHash(p.page)
		}
	}
	e.cache.find(f.pages)
	if most := guest.PacketBytes / maxDifference; cap(f.diffs) < most {
		f.diffs = make([]byte, 0, most) // so that it does not move
	}
	for i := range f.pages {
		f.compare(e.cache, &f.pages[i])
	}
	f.pinned = e.cache.keep(f.pages, f.pinned)
	for i := range f.pages {
		if p := &f.pages[i]; !p.fill.none() {
			e.cache.fill(p.fill, p.page)
		}
	}
}

// maxDifference is the part of a page that a difference may have: 1/maxDifference.
// Deflate makes an average page smaller than that.
const maxDifference = 4

// compare chooses between a reference, a difference and the page itself, and unpins what
// the frame does not use.
func (f *Frame) compare(c *SenderCache, p *pagePlan) {
	if !p.equal.none() && !bytes.Equal(c.page(p.equal), p.page) {
		c.unpin(&p.equal)
	}
	if !p.equal.none() {
		if !p.base.none() {
			c.unpin(&p.base)
		}
		p.form, f.fromCache = formReference, true
		return
	}
	if p.base.none() {
		return
	}
	start := len(f.diffs)
	diffs, ok := appendDifference(f.diffs, c.page(p.base), p.page, len(p.page)/maxDifference)
	if !ok {
		c.unpin(&p.base)
		return
	}
	f.diffs = diffs
	p.diff, p.form, f.fromCache = diffs[start:], formDifference, true
}

// digestLen is the length of the digest of a frame's pages from the cache.
const digestLen = 16

// appendDigest appends the digest of the pages that the other side takes from its cache.
func (e *Encoder) appendDigest(b []byte, f *Frame) []byte {
	if e.digest == nil {
		e.digest = blake3.New()
	}
	e.digest.Reset()
	for i := range f.pages {
		if p := &f.pages[i]; p.form.fromCache() {
			e.digest.Write(p.page)
		}
	}
	return e.digest.Sum(b)[:len(b)+digestLen]
}
