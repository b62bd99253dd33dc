package deflate

import "errors"

// errReference is what the reference inflater says of anything invalid.
var errReference = errors.New("invalid stream")

// refStream is an inflater that is too simple to be wrong: bit by bit, no
// tables, every rule of RFC 1951 spelled out. It is as strict as Inflate means
// to be, and records what it sees.
type refStream struct {
	src []byte
	bit int
	out []byte

	maxDistance int
	maxCode     int // longest literal or length code of a dynamic block
	blocks      [3]int
}

func refInflate(src []byte, size int) (*refStream, error) {
	r := &refStream{src: src}
	err := r.run(size)
	return r, err
}

func (r *refStream) bits(n int) int {
	v := 0
	for i := range n {
		if r.bit >= 8*len(r.src) {
			panic(errReference)
		}
		v |= int(r.src[r.bit/8]>>(r.bit%8)&1) << i
		r.bit++
	}
	return v
}

func (r *refStream) run(size int) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p != errReference {
				panic(p)
			}
			err = errReference
		}
	}()
	check := func(ok bool) {
		if !ok {
			panic(errReference)
		}
	}
	for final := false; !final; {
		final = r.bits(1) == 1
		kind := r.bits(2)
		check(kind < 3)
		r.blocks[kind]++
		switch kind {
		case 0:
			r.bit = (r.bit + 7) &^ 7
			n, complement := r.bits(16), r.bits(16)
			check(n == complement^0xffff)
			for range n {
				r.out = append(r.out, byte(r.bits(8)))
				check(len(r.out) <= size)
			}
		case 1:
			lens := make([]int, 288)
			for i := range lens {
				lens[i] = 8
				if i >= 144 && i < 256 {
					lens[i] = 9
				} else if i >= 256 && i < 280 {
					lens[i] = 7
				}
			}
			dist := make([]int, 32)
			for i := range dist {
				dist[i] = 5
			}
			r.block(refCode(lens, check), refCode(dist, check), size, check)
		case 2:
			lit, dist := r.lengths(check)
			for _, n := range lit {
				r.maxCode = max(r.maxCode, n)
			}
			check(lit[256] > 0)
			r.block(refCode(lit, check), refCode(dist, check), size, check)
		}
	}
	check((r.bit+7)/8 == len(r.src))
	check(len(r.out) == size)
	return nil
}

func (r *refStream) lengths(check func(bool)) (lit, dist []int) {
	nlit, ndist, ncode := r.bits(5)+257, r.bits(5)+1, r.bits(4)+4
	check(nlit <= 286 && ndist <= 30)
	order := []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	lens := make([]int, 19)
	for _, sym := range order[:ncode] {
		lens[sym] = r.bits(3)
	}
	code := refCode(lens, check)
	check(code.complete)
	var all []int
	for len(all) < nlit+ndist {
		sym := r.symbol(code)
		n, v := 1, sym
		switch sym {
		case 16:
			check(len(all) > 0)
			n, v = 3+r.bits(2), all[len(all)-1]
		case 17:
			n, v = 3+r.bits(3), 0
		case 18:
			n, v = 11+r.bits(7), 0
		}
		for range n {
			all = append(all, v)
		}
	}
	check(len(all) == nlit+ndist)
	return all[:nlit], all[nlit:]
}

// refPrefixCode maps length and value of each code to its symbol.
type refPrefixCode struct {
	symbols  map[[2]int]int
	complete bool
}

func refCode(lens []int, check func(bool)) refPrefixCode {
	c := refPrefixCode{symbols: map[[2]int]int{}}
	code, used := 0, 0
	longest := 0
	for n := 1; n <= 15; n++ {
		code <<= 1
		for sym, l := range lens {
			if l == n {
				check(code < 1<<n)
				c.symbols[[2]int{n, code}] = sym
				code++
				used += 1 << (15 - n)
				longest = n
			}
		}
	}
	c.complete = used == 1<<15
	check(c.complete || len(c.symbols) == 0 || len(c.symbols) == 1 && longest == 1)
	return c
}

func (r *refStream) symbol(c refPrefixCode) int {
	code := 0
	for n := 1; n <= 15; n++ {
		code = code<<1 | r.bits(1)
		if sym, ok := c.symbols[[2]int{n, code}]; ok {
			return sym
		}
	}
	panic(errReference)
}

func (r *refStream) block(lit, dist refPrefixCode, size int, check func(bool)) {
	for {
		sym := r.symbol(lit)
		if sym == 256 {
			return
		}
		if sym < 256 {
			r.out = append(r.out, byte(sym))
			check(len(r.out) <= size)
			continue
		}
		check(sym < 286)
		sym -= 257
		length := sym + 3
		if sym == 28 {
			length = 258
		} else if sym >= 8 {
			extra := sym/4 - 1
			length = 3 + (4+sym%4)<<extra + r.bits(extra)
		}
		sym = r.symbol(dist)
		check(sym < 30)
		distance := sym + 1
		if sym >= 4 {
			extra := sym/2 - 1
			distance = 1 + (2+sym%2)<<extra + r.bits(extra)
		}
		check(distance <= len(r.out))
		check(len(r.out)+length <= size)
		r.maxDistance = max(r.maxDistance, distance)
		for range length {
			r.out = append(r.out, r.out[len(r.out)-distance])
		}
	}
}
