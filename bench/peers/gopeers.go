package main

import (
	"bytes"
	"io"

	kpflate "github.com/klauspost/compress/flate"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/internal/probe/codec"
)

// each calls f for every page of b and its packed buffer. f returns the packed size, 0 for a
// raw page.
func (b *batch) each(f func(page, packed []byte) int) {
	for i := range b.sizes {
		page, packed := b.pages[i*pageSize:(i+1)*pageSize], b.packed[i*stride:]
		n := f(page, packed[:pageSize-1])
		if n == 0 {
			n = copy(packed, page)
		}
		b.sizes[i] = uint32(n)
	}
}

// eachPacked calls f for every packed page of b that is not raw, and returns the number of
// failed calls.
func (b *batch) eachPacked(f func(page, packed []byte) error) int {
	bad := 0
	for i, n := range b.sizes {
		page, packed := b.pages[i*pageSize:(i+1)*pageSize], b.packed[i*stride:][:n]
		if n == pageSize {
			copy(page, packed)
		} else if f(page, packed) != nil {
			bad++
		}
	}
	return bad
}

// ownModes returns the page codec, in both modes and each of the tiers.
func ownModes(tiers []string) ([]peer, error) {
	var peers []peer
	for _, tier := range tiers {
		for _, mode := range []deflate.Mode{deflate.Fast, deflate.Dense} {
			var enc *deflate.Encoder
			var dec *deflate.Decoder
			if err := codec.InTier(tier, func() { enc, dec = deflate.NewEncoder(mode), deflate.NewDecoder() }); err != nil {
				return nil, err
			}
			peers = append(peers, peer{
				"deflate-" + mode.String(), tier,
				func(b *batch) { b.each(func(page, packed []byte) int { return enc.Deflate(packed, page) }) },
				func(b *batch) int { return b.eachPacked(dec.Inflate) },
			})
		}
	}
	return peers, nil
}

// klauspost is the pure Go codec that this one replaces.
func klauspost() peer {
	var buf bytes.Buffer
	w, err := kpflate.NewWriter(&buf, 1)
	if err != nil {
		panic(err) // level 1 exists
	}
	var in bytes.Reader
	r := kpflate.NewReader(&in)
	return peer{
		"klauspost-1", "",
		func(b *batch) {
			b.each(func(page, packed []byte) int {
				buf.Reset()
				w.Reset(&buf)
				w.Write(page) // a bytes.Buffer takes everything
				w.Close()
				if buf.Len() > len(packed) {
					return 0
				}
				return copy(packed, buf.Bytes())
			})
		},
		func(b *batch) int {
			return b.eachPacked(func(page, packed []byte) error {
				in.Reset(packed)
				if err := r.(kpflate.Resetter).Reset(&in, nil); err != nil {
					return err
				}
				_, err := io.ReadFull(r, page)
				return err
			})
		},
	}
}
