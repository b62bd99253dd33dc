package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/zeebo/blake3"

	"github.com/vmferry/vmferry/store"
)

// A page object of format 2 ends with the list of its parts, and the digest of the object
// is that of the list. So the digest of each part can be computed, and verified, without
// the other parts. Section 4 of docs/snapshot-format.md specifies the list.

const (
	partsMagic   = "VMFPART2"
	partLen      = 40 // bytes of a part in the list
	partsTailLen = 32
)

// part is an extent of a page object, current or superseded.
type part struct {
	length uint32
	sum    sum
}

// partsLen returns the size in bytes of a list of n parts.
func partsLen(n int64) int64 { return n*partLen + partsTailLen }

// appendParts appends the list of an object's parts.
func appendParts(b []byte, parts []part) []byte {
	be := binary.BigEndian
	total := uint64(0)
	for _, p := range parts {
		b = be.AppendUint32(b, p.length)
		b = be.AppendUint32(b, 0)
		b = append(b, p.sum[:]...)
		total += uint64(p.length)
	}
	b = append(b, partsMagic...)
	b = be.AppendUint32(b, version2)
	b = be.AppendUint32(b, uint32(len(parts)))
	b = be.AppendUint64(b, total)
	return be.AppendUint64(b, 0)
}

// partsAtOnce is the number of parts whose list is read at a time.
const partsAtOnce = 1 << 12

// partsReader reads the list of an object's parts in steps, so that memory does not grow
// with what the manifest claims.
type partsReader struct {
	o      store.Object
	info   ObjectInfo
	at     int64 // of the next part's entry
	offset int64 // of the next part
	left   int64 // parts
	lines  []byte
	digest hash.Hash
}

// newPartsReader reads the parts of an object of format 2, whose size and number of parts
// the manifest states.
func newPartsReader(o store.Object, info ObjectInfo) *partsReader {
	return &partsReader{o: o, info: info, at: info.Size - partsLen(info.Parts), left: info.Parts, digest: blake3.New()}
}

// next returns the next part and its offset. ok is false at the end, where the list is
// verified.
func (r *partsReader) next(ctx context.Context) (p part, offset int64, ok bool, err error) {
	if r.left == 0 {
		return part{}, 0, false, r.end(ctx)
	}
	if len(r.lines) == 0 {
		r.lines = make([]byte, min(r.left, partsAtOnce)*partLen)
		if err := r.read(ctx, r.lines); err != nil {
			return part{}, 0, false, err
		}
	}
	be := binary.BigEndian
	p.length = be.Uint32(r.lines)
	if p.length == 0 || int64(p.length) > r.info.Size-partsLen(r.info.Parts)-r.offset {
		return part{}, 0, false, corrupt(r.info.Name, "a part of %d bytes at %d of the %d before the list of parts", p.length, r.offset, r.info.Size-partsLen(r.info.Parts))
	}
	copy(p.sum[:], r.lines[8:])
	r.lines = r.lines[partLen:]
	r.left--
	offset = r.offset
	r.offset += int64(p.length)
	return p, offset, true, nil
}

// read reads and hashes the next bytes of the list.
func (r *partsReader) read(ctx context.Context, b []byte) error {
	if err := store.ReadFull(ctx, r.o, b, r.at); err != nil {
		return fmt.Errorf("reading %s at %d: %w", r.info.Name, r.at, err)
	}
	r.at += int64(len(b))
	r.digest.Write(b)
	return nil
}

// end verifies the end of the list, its digest, and that the parts are the object.
func (r *partsReader) end(ctx context.Context) error {
	tail := make([]byte, partsTailLen)
	if err := r.read(ctx, tail); err != nil {
		return err
	}
	if got := hex.EncodeToString(r.digest.Sum(nil)); got != r.info.BLAKE3 {
		return corrupt(r.info.Name, "the digest of its list of parts is %s (the manifest has %s)", got, r.info.BLAKE3)
	}
	want := binary.BigEndian.AppendUint32([]byte(partsMagic), version2)
	want = binary.BigEndian.AppendUint32(want, uint32(r.info.Parts))
	want = binary.BigEndian.AppendUint64(want, uint64(r.offset))
	want = append(want, make([]byte, 8)...)
	if r.offset != r.info.Size-partsLen(r.info.Parts) || !bytes.Equal(tail, want) {
		return corrupt(r.info.Name, "its list of parts ends with %x (want %x)", tail, want)
	}
	return nil
}
