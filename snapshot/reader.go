package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
)

// Reader reads a complete snapshot. Its methods may be called by several
// goroutines.
type Reader struct {
	bucket   Bucket
	manifest *Manifest
	layout   *guest.Layout
	pages    []ObjectInfo
	objects  *objectCache // of pages
	index    *index
	// indexInfo is what the manifest says of the index.
	indexInfo ObjectInfo
	digests   digests

	mu     sync.Mutex
	chunks map[chunkKey]*chunk // the last few that Page looked into
	order  []chunkKey
	parts  map[int][]extent
	dec    *decoder
	buf    []byte
}

type chunkKey struct {
	block int
	chunk uint32
}

// Open opens a snapshot. It reads the manifest and the index's directory, no
// pages, and looks whether all objects are there in their sizes.
func Open(b Bucket) (*Reader, error) {
	m, err := readManifest(b)
	if err != nil {
		return nil, err
	}
	return openWith(b, m)
}

// openWith opens the objects of a manifest. The writer calls it before the
// manifest is in the bucket.
func openWith(b Bucket, m *Manifest) (_ *Reader, err error) {
	layout, err := m.Layout()
	if err != nil {
		return nil, err
	}
	r := &Reader{bucket: b, manifest: m, layout: layout, chunks: map[chunkKey]*chunk{}, parts: map[int][]extent{}, dec: newDecoder(layout.PageSize)}
	for _, info := range m.Objects {
		switch info.Role {
		case RolePages:
			r.pages = append(r.pages, info)
		case RoleIndex:
			r.indexInfo = info
		}
	}
	r.objects = newObjectCache(b, r.pages)
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if err := r.objects.check(); err != nil {
		return nil, err
	}
	o, err := openObject(b, r.indexInfo)
	if err != nil {
		return nil, err
	}
	if r.index, err = openIndex(o, r.indexInfo.Name, layout, r.pages); err != nil {
		r.index = nil
		o.Close()
		return nil, err
	}
	return r, r.checkCounts()
}

// checkCounts compares the manifest's counts with the index's.
func (r *Reader) checkCounts() error {
	var pages uint64
	for i, b := range r.manifest.Blocks {
		var n uint64
		for _, s := range r.index.chunks[i] {
			n += uint64(s.count)
		}
		if n != b.Pages {
			return corrupt(r.index.name, "it has %d pages of RAM block %q, the manifest %d", n, b.Name, b.Pages)
		}
		pages += n
	}
	if pages != r.manifest.Totals.Pages || r.index.extents != r.manifest.Totals.Extents {
		return corrupt(r.index.name, "it has %d pages in %d extents, the manifest %d in %d", pages, r.index.extents, r.manifest.Totals.Pages, r.manifest.Totals.Extents)
	}
	return nil
}

// Close ends what runs in the background and closes the objects.
func (r *Reader) Close() error {
	r.digests.close()
	first := r.objects.close()
	if r.index != nil {
		if err := r.index.o.Close(); first == nil {
			first = err
		}
	}
	r.index = nil
	r.dec.close()
	return first
}

// Manifest returns what the snapshot says of itself.
func (r *Reader) Manifest() *Manifest { return r.manifest }

// Layout returns the RAM blocks.
func (r *Reader) Layout() *guest.Layout { return r.layout }

// small reads a whole object and checks its digest.
func (r *Reader) small(role Role) ([]byte, error) {
	for _, info := range r.manifest.Objects {
		if info.Role != role {
			continue
		}
		// A sparse file claims any size for nothing. So the digest is
		// compared before there is memory for all bytes.
		sure := int64(0)
		if info.Size > readStep {
			if err := r.verifyDigest(context.Background(), info); err != nil {
				return nil, err
			}
			sure = info.Size
		}
		data, err := readObject(r.bucket, info.Name, info.Size, sure)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, corrupt(info.Name, "the object is missing")
		}
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != info.SHA256 {
			return nil, corrupt(info.Name, "its digest is %x (the manifest says %s)", sum, info.SHA256)
		}
		return data, nil
	}
	return nil, nil
}

// Head returns the migration stream's header and configuration, checked.
func (r *Reader) Head() ([]byte, error) {
	head, err := r.small(RoleHead)
	if err != nil {
		return nil, err
	}
	return head, r.manifest.checkHead(head)
}

// Devices returns the device state with the end of the stream.
func (r *Reader) Devices() ([]byte, error) { return r.small(RoleDevices) }

// States returns the device-state packets.
func (r *Reader) States() ([]multifd.DeviceState, error) {
	data, err := r.small(RoleStates)
	if err != nil || data == nil {
		return nil, err
	}
	states, err := multifd.ReadDeviceStates(bytes.NewReader(data))
	if err != nil {
		return nil, corrupt("device-states", "%v", err)
	}
	return states, nil
}

// extent returns a line of the extent table; parts that were loaded are kept
// by the caller in cache.
func (r *Reader) extent(n uint64, cache map[int][]extent) (extent, error) {
	i := int(n / tableExtents)
	part, ok := cache[i]
	if !ok {
		var err error
		if part, err = r.index.extentPart(i); err != nil {
			return extent{}, err
		}
		if len(cache) >= 64 {
			clear(cache)
		}
		cache[i] = part
	}
	return part[n%tableExtents], nil
}

// payload reads an extent into buf and checks its checksum.
func (r *Reader) payload(e extent, buf []byte) ([]byte, error) {
	if cap(buf) < int(e.length) {
		buf = make([]byte, maxExtentLen(r.layout.PageSize))
	}
	buf = buf[:e.length]
	info := r.pages[e.object]
	o, err := r.objects.use(e.object)
	if err != nil {
		return nil, err
	}
	_, err = io.ReadFull(io.NewSectionReader(o, int64(e.offset), int64(e.length)), buf)
	if closeErr := r.objects.release(o); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s at %d: %w", info.Name, e.offset, err)
	}
	if checksum(buf) != e.crc {
		return nil, corrupt(info.Name, "the checksum of the extent of %d bytes at %d is wrong", e.length, e.offset)
	}
	return buf, nil
}

// keptChunks is how many chunks of the index Page keeps: half a MiB each at
// most, 4 GiB of guest.
const keptChunks = 16

// Page reads the page at offset of b into dst, one page. It takes one lookup
// in the index and one read of an extent.
func (r *Reader) Page(b *guest.Block, offset uint64, dst []byte) error {
	if err := r.layout.CheckOffset(b, offset); err != nil {
		return err
	}
	if len(dst) != r.layout.PageSize {
		return fmt.Errorf("snapshot: %d bytes to read a page of %d into", len(dst), r.layout.PageSize)
	}
	page := offset / uint64(r.layout.PageSize)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.index == nil {
		return errClosed
	}
	c, err := r.cachedChunk(chunkKey{b.Index, uint32(page / chunkPages)})
	if err != nil {
		return err
	}
	var l location
	if c != nil {
		l = c.find(uint32(page % chunkPages))
	}
	if l == 0 {
		clear(dst)
		return nil
	}
	e, err := r.extent(l.extent(), r.parts)
	if err != nil {
		return err
	}
	if int(e.block) != b.Index || l.slot() >= int(e.count) {
		return corrupt(r.index.name, "page %#x of RAM block %q is said to be slot %d of an extent of %d pages of block %d", offset, b.Name, l.slot(), e.count, e.block)
	}
	if r.buf, err = r.payload(e, r.buf); err != nil {
		return err
	}
	x, err := r.dec.parse(e, r.buf)
	if err != nil {
		return corrupt(r.pages[e.object].Name, "extent at %d: %v", e.offset, err)
	}
	p, err := r.dec.page(&x, l.slot(), dst)
	if err != nil {
		return corrupt(r.pages[e.object].Name, "extent at %d: %v", e.offset, err)
	}
	copy(dst, p)
	return nil
}

func (r *Reader) cachedChunk(key chunkKey) (*chunk, error) {
	if c, ok := r.chunks[key]; ok {
		return c, nil
	}
	c, err := r.index.loadChunk(key.block, key.chunk)
	if err != nil {
		return nil, err
	}
	if len(r.order) == keptChunks {
		delete(r.chunks, r.order[0])
		r.order = r.order[1:]
	}
	r.chunks[key] = c
	r.order = append(r.order, key)
	return c, nil
}

// chunkCount returns how many chunks a block has.
func (r *Reader) chunkCount(b *guest.Block) uint32 {
	return uint32((r.layout.Pages(b) + chunkPages - 1) / chunkPages)
}

var errClosed = errors.New("snapshot: reader is closed")

func contextErr(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
