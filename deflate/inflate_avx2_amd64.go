//go:build !noasm

package deflate

//go:noescape
func decodeBlockAVX2(d *Decoder, c *blockCode, patterns *shufflePatterns) status

func decodeAVX2(d *Decoder, c *blockCode) status { return decodeBlockAVX2(d, c, &shuffles) }

// shufflePatterns are copyPatterns for 32 bytes and for VPSHUFB, which shuffles 16.
type shufflePatterns struct {
	index [33][2]shuffle // by distance; 32 stands for any beyond
	step  [33]uint8
}

// shuffle has for each of 32 bytes its index in one half of the match's first 32 bytes, or
// inOtherHalf.
type shuffle [32]uint8

const inOtherHalf = 0x80 // VPSHUFB makes such a byte zero

var shuffles = func() (p shufflePatterns) {
	for distance := 1; distance <= 32; distance++ {
		rows := &p.index[distance]
		for i := range 32 {
			from := i % distance
			rows[from/16][i] = uint8(from % 16)
			rows[1-from/16][i] = inOtherHalf
		}
		p.step[distance] = uint8(32 - 32%distance)
	}
	return p
}()

//go:noescape
func zeroBytesAVX2(p *byte, n int) bool

func zeroStepsAVX2(p []byte) bool { return len(p) == 0 || zeroBytesAVX2(&p[0], len(p)) }
