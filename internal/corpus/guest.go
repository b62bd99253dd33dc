package corpus

import (
	"encoding/binary"
	"math/rand/v2"
)

// words are the words of the test guest's text pages.
var words = []string{
	"the ", "guest ", "memory ", "of ", "a ", "machine ", "page ", "is ", "moved ", "while ", "it ", "runs\n",
	"static int ", "return ", "if (", ") {\n\t", "}\n", "struct ", "0x", "error: ", "%s", "/usr/lib/", ".so", "\x00",
}

// FillGuest fills b as the test guest of package qemutest fills the page with the given
// number. Of four consecutive pages, two hold text, one holds pointers, and one does not
// compress.
func FillGuest(b []byte, number uint64, r *rand.Rand) {
	if number%4 < 2 {
		for len(b) > 0 {
			b = b[copy(b, words[r.IntN(len(words))]):]
		}
		return
	}
	base := uint64(0)
	if number%4 == 2 {
		base = 0xffff888000000000 | r.Uint64N(1<<30)&^0xfff
	}
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, guestWord(base, r))
	}
}

// guestWord returns a pointer above base, a small number, or 0. Without a base, it returns
// noise.
func guestWord(base uint64, r *rand.Rand) uint64 {
	if base == 0 {
		return r.Uint64()
	}
	switch r.IntN(4) {
	case 0, 1:
		return base + r.Uint64N(1<<14)&^7
	case 2:
		return r.Uint64N(256)
	}
	return 0
}
