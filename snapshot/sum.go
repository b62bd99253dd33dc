package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"hash/crc32"

	"github.com/zeebo/blake3"
)

// The versions of the format. The writer writes the newest.
const (
	version1 = 1 // SHA-256 over whole objects, CRC-32C over extents and segments
	version2 = 2 // BLAKE3 over extents and segments, and over the lists of these

	newestVersion = version2
)

// sum is the sum of an extent, a segment of the index or a part of an object: BLAKE3, or
// in format 1 CRC-32C in the first 4 bytes.
type sum [32]byte

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumOf returns the sum of b in a version of the format.
func sumOf(version int, b []byte) sum {
	if version == version1 {
		return crcSum(crc32.Checksum(b, castagnoli))
	}
	return blake3.Sum256(b)
}

// crcSum returns a CRC-32C as a sum.
func crcSum(crc uint32) (s sum) {
	binary.BigEndian.PutUint32(s[:], crc)
	return s
}

// newDigest returns the hash of whole objects in a version of the format.
func newDigest(version int) hash.Hash {
	if version == version1 {
		return sha256.New()
	}
	return blake3.New()
}

// digestOf returns the digest of b in lower-case hexadecimal.
func digestOf(version int, b []byte) string {
	h := newDigest(version)
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}
