package deflate

import "encoding/binary"

const (
	// maxStored is the longest stored block: its length is a 16-bit field.
	maxStored = 1<<16 - 1
	// storedHeader is the size of a stored block's header where the block
	// starts on a byte boundary: type bits and padding, length, complement.
	storedHeader = 5
)

// storedSize returns how many bytes n bytes take as stored blocks.
func storedSize(n int) int {
	return n + storedHeader*((n+maxStored-1)/maxStored)
}

// putStored writes page to dst as stored blocks and returns their length, or 0 if they
// do not fit.
func putStored(dst, page []byte) int {
	if storedSize(len(page)) > len(dst) {
		return 0
	}
	n := 0
	for {
		chunk := page[:min(len(page), maxStored)]
		page = page[len(chunk):]
		dst[n] = 0
		if len(page) == 0 {
			dst[n] = 1 // the final block
		}
		binary.LittleEndian.PutUint16(dst[n+1:], uint16(len(chunk)))
		binary.LittleEndian.PutUint16(dst[n+3:], ^uint16(len(chunk)))
		n += storedHeader
		n += copy(dst[n:], chunk)
		if len(page) == 0 {
			return n
		}
	}
}
