package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/store"
)

// Reader reads a complete snapshot. Its methods may be called by several
// goroutines.
type Reader struct {
	bucket   store.Bucket
	manifest *Manifest
	layout   *guest.Layout
	pages    []ObjectInfo
	objects  *objectCache // of pages
	index    *index
	// indexInfo is what the manifest says of the index.
	indexInfo ObjectInfo
	digests   digests
	calls     calls

	parts    *cache[uint64, []extent] // of the extent table
	chunks   *cache[chunkKey, *chunk]
	extents  *cache[uint64, *extentData]
	decoders sync.Pool // of *decoder
}

type chunkKey struct {
	block int
	chunk uint32
}

// OpenOptions say how a snapshot is read. The zero value is ready for use.
type OpenOptions struct {
	// CacheSize bounds the bytes of extents that Page keeps; 0 is 16 MiB, and a
	// negative one keeps none.
	CacheSize int64
}

// Bounds of what a reader keeps, in bytes.
const (
	defaultCacheSize = 16 << 20
	// keptParts is that of the extent table: the lines of 8 million pages.
	keptParts = 2 << 20
	// keptChunks is that of the chunks that Page looks into: 4 GiB of guest.
	keptChunks = 8 << 20
)

// Open opens a snapshot. It reads the manifest and the index's directory, no
// pages, and looks whether all objects are there in their sizes.
func Open(ctx context.Context, b store.Bucket, opts OpenOptions) (*Reader, error) {
	m, err := readManifest(ctx, b)
	if err != nil {
		return nil, err
	}
	return openWith(ctx, b, m, opts)
}

// calls counts the calls of a reader that are under way.
type calls struct {
	mu     sync.Mutex
	closed bool
	group  sync.WaitGroup
}

func (c *calls) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	c.group.Add(1)
	return nil
}

func (c *calls) end() { c.group.Done() }

// close lets no other call begin. It says whether it is the first to do so.
func (c *calls) close() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := !c.closed
	c.closed = true
	return first
}

// openWith opens the objects of a manifest. The writer calls it before the
// manifest is in the bucket.
func openWith(ctx context.Context, b store.Bucket, m *Manifest, opts OpenOptions) (_ *Reader, err error) {
	layout, err := m.Layout()
	if err != nil {
		return nil, err
	}
	if opts.CacheSize == 0 {
		opts.CacheSize = defaultCacheSize
	}
	r := &Reader{
		bucket: b, manifest: m, layout: layout,
		parts: newCache[uint64, []extent](keptParts), chunks: newCache[chunkKey, *chunk](keptChunks), extents: newCache[uint64, *extentData](opts.CacheSize),
	}
	r.decoders.New = func() any { return newDecoder(layout.PageSize) }
	for _, info := range m.Objects {
		switch info.Role {
		case RolePages:
			r.pages = append(r.pages, info)
		case RoleIndex:
			r.indexInfo = info
		}
	}
	r.objects = newObjectCache(func(ctx context.Context, i uint32) (store.Object, error) { return openObject(ctx, b, r.pages[i]) })
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if err := r.objects.check(ctx, len(r.pages)); err != nil {
		return nil, err
	}
	o, err := openObject(ctx, b, r.indexInfo)
	if err != nil {
		return nil, err
	}
	if r.index, err = openIndex(ctx, o, r.indexInfo.Name, layout, r.pages); err != nil {
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

// Close ends what runs in the background and closes the objects. It waits for
// calls that are under way: end their contexts to end them. Later calls fail.
func (r *Reader) Close() error {
	if !r.calls.close() {
		return nil
	}
	r.digests.close()
	r.calls.group.Wait()
	r.extents.clear()
	r.chunks.clear()
	r.parts.clear()
	first := r.objects.close()
	if r.index != nil {
		if err := r.index.o.Close(); first == nil {
			first = err
		}
	}
	return first
}

// Manifest returns what the snapshot says of itself.
func (r *Reader) Manifest() *Manifest { return r.manifest }

// Layout returns the RAM blocks.
func (r *Reader) Layout() *guest.Layout { return r.layout }

// small reads a whole object and checks its digest.
func (r *Reader) small(ctx context.Context, role Role) ([]byte, error) {
	for _, info := range r.manifest.Objects {
		if info.Role != role {
			continue
		}
		// A sparse file claims any size for nothing. So the digest is
		// compared before there is memory for all bytes.
		sure := int64(0)
		if info.Size > readStep {
			if err := r.verifyDigest(ctx, info); err != nil {
				return nil, err
			}
			sure = info.Size
		}
		data, err := readObject(ctx, r.bucket, info.Name, info.Size, sure)
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
func (r *Reader) Head(ctx context.Context) ([]byte, error) {
	head, err := r.small(ctx, RoleHead)
	if err != nil {
		return nil, err
	}
	return head, r.manifest.checkHead(head)
}

// Devices returns the device state with the end of the stream.
func (r *Reader) Devices(ctx context.Context) ([]byte, error) { return r.small(ctx, RoleDevices) }

// States returns the device-state packets.
func (r *Reader) States(ctx context.Context) ([]multifd.DeviceState, error) {
	data, err := r.small(ctx, RoleStates)
	if err != nil || data == nil {
		return nil, err
	}
	states, err := multifd.ReadDeviceStates(bytes.NewReader(data))
	if err != nil {
		return nil, corrupt("device-states", "%v", err)
	}
	return states, nil
}

// extent returns a line of the extent table.
func (r *Reader) extent(ctx context.Context, n uint64) (extent, error) {
	part, err := r.parts.get(ctx, n/tableExtents, func() ([]extent, int64, error) {
		part, err := r.index.extentPart(ctx, int(n/tableExtents))
		return part, int64(len(part)) * extentLen, err
	})
	if err != nil {
		return extent{}, err
	}
	return part[n%tableExtents], nil
}

// payload reads an extent into buf and checks its checksum.
func (r *Reader) payload(ctx context.Context, e extent, buf []byte) ([]byte, error) {
	if cap(buf) < int(e.length) {
		buf = make([]byte, e.length)
	}
	buf = buf[:e.length]
	info := r.pages[e.object]
	o, err := r.objects.use(ctx, e.object)
	if err != nil {
		return nil, err
	}
	err = store.ReadFull(ctx, o, buf, int64(e.offset))
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
