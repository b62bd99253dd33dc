package iaamodel

import (
	"math/bits"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/internal/deflate"
)

// history is how far back a match may reach on the device, in bytes.
const history = 4096

// inflated is the outcome of an inflate: on code 0, the output is out[:n] and used
// bytes of the source were consumed. overflow is set if out was too small.
type inflated struct {
	n, used  int
	code     iaa.Code
	overflow bool
}

// inflater decodes one deflate stream with the limits and the error codes of the
// device. It is written for this model alone, so that the software path of a driver
// under test is compared with other code.
type inflater struct {
	src  []byte
	pos  int
	acc  uint64
	have uint
	out  []byte
	n    int

	litlen, dist decoder
	fixed        bool // litlen and dist hold the fixed tables
	overflow     bool
}

// inflate decodes src into out.
func (z *inflater) inflate(out, src []byte) inflated {
	z.src, z.pos, z.acc, z.have = src, 0, 0, 0
	z.out, z.n, z.overflow = out, 0, false
	for {
		final, code := z.block()
		if code != 0 {
			return inflated{n: z.n, used: z.used(), code: code}
		}
		if z.overflow {
			return inflated{n: z.n, used: z.used(), overflow: true}
		}
		if final {
			return inflated{n: z.n, used: z.used()}
		}
	}
}

// used is the number of source bytes of which at least one bit was consumed.
func (z *inflater) used() int { return z.pos - int(z.have/8) }

// fill makes at least 32 bits available if the source has them.
func (z *inflater) fill() {
	for z.have <= 56 && z.pos < len(z.src) {
		z.acc |= uint64(z.src[z.pos]) << z.have
		z.pos++
		z.have += 8
	}
}

// take reads n bits, at most 16; ok is false at the end of the source.
func (z *inflater) take(n uint) (v int, ok bool) {
	if z.have < n {
		if z.fill(); z.have < n {
			return 0, false
		}
	}
	v = int(z.acc & (1<<n - 1))
	z.acc >>= n
	z.have -= n
	return v, true
}

func (z *inflater) block() (final bool, code iaa.Code) {
	head, ok := z.take(3)
	if !ok {
		return false, iaa.CodeMissingEOB
	}
	final = head&1 == 1
	switch head >> 1 {
	case 0:
		code = z.stored()
	case 1:
		if !z.fixed {
			z.loadFixed()
		}
		code = z.symbols()
	case 2:
		if code = z.header(); code == 0 {
			code = z.symbols()
		}
	case 3:
		code = iaa.CodeBlockType
	}
	return final, code
}

func (z *inflater) stored() iaa.Code {
	z.acc >>= z.have % 8
	z.have -= z.have % 8
	length, ok1 := z.take(16)
	inverse, ok2 := z.take(16)
	switch {
	case !ok1 || !ok2:
		return iaa.CodeHeaderTruncated
	case length != inverse^0xffff:
		return iaa.CodeStoredLength
	}
	for ; length > 0; length-- {
		b, ok := z.take(8)
		if !ok {
			return iaa.CodeMissingEOB
		}
		if !z.emit(byte(b)) {
			return 0
		}
	}
	return 0
}

// emit appends a byte and reports whether there was room.
func (z *inflater) emit(b byte) bool {
	if z.n == len(z.out) {
		z.overflow = true
		return false
	}
	z.out[z.n] = b
	z.n++
	return true
}

// symbols decodes literals and matches up to the end of the block.
func (z *inflater) symbols() iaa.Code {
	for {
		sym, ok := z.litlen.next(z)
		switch {
		case !ok && z.have < deflate.MaxCodeBits && z.pos == len(z.src):
			return iaa.CodeMissingEOB
		case !ok:
			return iaa.CodeLitLenSymbol
		case sym < deflate.EndOfBlock:
			if !z.emit(byte(sym)) {
				return 0
			}
		case sym == deflate.EndOfBlock:
			return 0
		case sym >= deflate.NumLitLen:
			return iaa.CodeBadLength
		default:
			if code := z.match(sym - 257); code != 0 || z.overflow {
				return code
			}
		}
	}
}

func (z *inflater) match(i int) iaa.Code {
	extra, ok := z.take(uint(deflate.LengthExtra[i]))
	if !ok {
		return iaa.CodeMissingEOB
	}
	length := int(deflate.LengthBase[i]) + extra
	sym, ok := z.dist.next(z)
	switch {
	case !ok && z.have < deflate.MaxCodeBits && z.pos == len(z.src):
		return iaa.CodeMissingEOB
	case !ok:
		return iaa.CodeDistSymbol
	case sym >= deflate.NumDist:
		return iaa.CodeBadDistance
	}
	extra, ok = z.take(uint(deflate.DistExtra[sym]))
	dist := int(deflate.DistBase[sym]) + extra
	switch {
	case !ok:
		return iaa.CodeMissingEOB
	case dist > history:
		return iaa.CodeBadDistance
	case dist > z.n:
		return iaa.CodeBeforeStart
	}
	for ; length > 0; length-- {
		if !z.emit(z.out[z.n-dist]) {
			return 0
		}
	}
	return 0
}

func (z *inflater) loadFixed() {
	var lengths [288]uint8
	for s := range lengths {
		lengths[s] = deflate.FixedLitLenBits(s)
	}
	z.litlen.init(lengths[:])
	var dist [32]uint8
	for s := range dist {
		dist[s] = 5
	}
	z.dist.init(dist[:])
	z.fixed = true
}

// order is how a header lists the lengths of the code length code.
var order = [deflate.NumCodeLen]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// header reads the tables of a dynamic block.
func (z *inflater) header() iaa.Code {
	z.fixed = false
	counts, ok := z.take(14)
	if !ok {
		return iaa.CodeHeaderTruncated
	}
	numLitLen, numDist, numCodeLen := counts&31+257, counts>>5&31+1, counts>>10+4
	switch {
	case numLitLen > deflate.NumLitLen:
		return iaa.CodeTooManyLitLen
	case numDist > deflate.NumDist:
		return iaa.CodeTooManyDist
	}
	var lens [deflate.NumCodeLen]uint8
	for _, s := range order[:numCodeLen] {
		l, ok := z.take(3)
		if !ok {
			return iaa.CodeHeaderTruncated
		}
		lens[s] = uint8(l)
	}
	var codeLen decoder
	if !codeLen.init(lens[:]) {
		return iaa.CodeCodeLenTable
	}
	var all [deflate.NumLitLen + deflate.NumDist]uint8
	if code := z.lengths(&codeLen, all[:numLitLen+numDist], numLitLen); code != 0 {
		return code
	}
	litlen := all[:numLitLen]
	switch {
	case litlen[deflate.EndOfBlock] == 0:
		return iaa.CodeNoLitLen
	case !z.litlen.init(litlen):
		return iaa.CodeLitLenTable
	case !z.dist.init(all[numLitLen : numLitLen+numDist]):
		return iaa.CodeDistTable
	}
	return 0
}

// lengths reads code lengths, the literal table's and then the distance table's
// from index split on.
func (z *inflater) lengths(codeLen *decoder, all []uint8, split int) iaa.Code {
	for i := 0; i < len(all); {
		sym, ok := codeLen.next(z)
		switch {
		case !ok && z.have < 7 && z.pos == len(z.src):
			return iaa.CodeHeaderTruncated
		case !ok:
			return iaa.CodeCodeLenSymbol
		case sym < 16:
			all[i] = uint8(sym)
			i++
			continue
		case sym == 16 && i == 0:
			return iaa.CodeLitLenRepeat
		}
		repeat := [3]struct {
			extra uint
			base  int
		}{{2, 3}, {3, 3}, {7, 11}}[sym-16]
		extra, ok := z.take(repeat.extra)
		if !ok {
			return iaa.CodeHeaderTruncated
		}
		n := repeat.base + extra
		if i+n > len(all) {
			if i < split {
				return iaa.CodeLitLenCount
			}
			return iaa.CodeDistCount
		}
		value := uint8(0)
		if sym == 16 {
			value = all[i-1]
		}
		for ; n > 0; n-- {
			all[i] = value
			i++
		}
	}
	return 0
}

// quickBits is the code length up to which a decoder needs one look-up.
const quickBits = 9

// decoder decodes one canonical Huffman code.
type decoder struct {
	quick [1 << quickBits]uint16 // symbol<<4 | length, by the next bits; 0 if longer
	first [deflate.MaxCodeBits + 1]int
	count [deflate.MaxCodeBits + 1]int
	index [deflate.MaxCodeBits + 1]int
	syms  [288]uint16 // by code
}

// init builds the tables and reports whether the lengths can be a prefix code.
func (d *decoder) init(lengths []uint8) bool {
	d.count = [deflate.MaxCodeBits + 1]int{}
	for _, l := range lengths {
		d.count[l]++
	}
	d.count[0] = 0
	code, index := 0, 0
	var next [deflate.MaxCodeBits + 1]int
	for l := 1; l <= deflate.MaxCodeBits; l++ {
		code <<= 1
		d.first[l], d.index[l] = code, index
		next[l] = index
		code += d.count[l]
		index += d.count[l]
		if code > 1<<l {
			return false
		}
	}
	clear(d.quick[:])
	for s, l := range lengths {
		if l == 0 {
			continue
		}
		d.syms[next[l]] = uint16(s)
		if l <= quickBits {
			c := d.first[l] + next[l] - d.index[l]
			for i := int(bits.Reverse16(uint16(c)) >> (16 - l)); i < len(d.quick); i += 1 << l {
				d.quick[i] = uint16(s)<<4 | uint16(l)
			}
		}
		next[l]++
	}
	return true
}

// next decodes a symbol. It fails at the end of the source, or on a code that
// belongs to no symbol.
func (d *decoder) next(z *inflater) (int, bool) {
	if z.have < deflate.MaxCodeBits {
		z.fill()
	}
	if e := d.quick[z.acc&(1<<quickBits-1)]; e != 0 && uint(e&15) <= z.have {
		z.acc >>= e & 15
		z.have -= uint(e & 15)
		return int(e >> 4), true
	}
	code := 0
	for l := 1; l <= deflate.MaxCodeBits && uint(l) <= z.have; l++ {
		code = code<<1 | int(z.acc>>(l-1)&1)
		if i := code - d.first[l]; i < d.count[l] && i >= 0 {
			z.acc >>= l
			z.have -= uint(l)
			return int(d.syms[d.index[l]+i]), true
		}
	}
	return 0, false
}
