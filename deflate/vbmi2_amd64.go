//go:build !noasm

package deflate

//go:noescape
func sortSymbolsVBMI2(c *canonical, lens *[litLenCodes]uint8)

func sortVBMI2(c *canonical, lens []uint8) {
	if len(lens) == litLenCodes {
		sortSymbolsVBMI2(c, (*[litLenCodes]uint8)(lens))
		return
	}
	c.sortGo(lens)
}

//go:noescape
func decodeBlockVBMI2(d *Decoder, c *blockCode, patterns *copyPatterns) status

func decodeVBMI2(d *Decoder, c *blockCode) status { return decodeBlockVBMI2(d, c, &patterns) }

// copyPatterns are for copying a match 64 bytes at a time if it overlaps itself: for
// each byte, its index from the match's start, and the number of bytes in whole
// repetitions by which the copy advances.
type copyPatterns struct {
	index [65][64]uint8 // by distance; 64 stands for any beyond
	step  [65]uint8
}

var patterns = func() (p copyPatterns) {
	for distance := 1; distance <= 64; distance++ {
		for i := range p.index[distance] {
			p.index[distance][i] = uint8(i % distance)
		}
		p.step[distance] = uint8(64 - 64%distance)
	}
	return p
}()
