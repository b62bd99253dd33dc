package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/store"
)

// Reader reads a complete snapshot. Several goroutines may call its methods.
type Reader struct {
	bucket   store.Bucket
	manifest *Manifest
	layout   *guest.Layout
	pages    []ObjectInfo
	objects  *objectCache // page objects
	index    *index
	// indexInfo is the manifest's entry of the index.
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

// OpenOptions configure a Reader. The zero value selects the defaults.
type OpenOptions struct {
	// CacheSize is the largest number of bytes of extents that Page caches. 0
	// selects 16 MiB. A negative size disables the cache.
	CacheSize int64
}

// Limits of a reader's caches, in bytes.
const (
	defaultCacheSize = 16 << 20
	// partsCacheSize is the limit for the extent table: the entries of 7 million
	// pages.
	partsCacheSize = 4 << 20
	// extentMemory is the size of an extent in memory.
	extentMemory = 64 + 8
	// chunksCacheSize is the limit for the chunks that Page uses: 4 GiB of guest
	// memory.
	chunksCacheSize = 8 << 20
)

// Open opens a snapshot. It reads the manifest and the directory of the index, but no
// pages, and checks that all objects exist with the right size. The error wraps
// ErrIncomplete if there is no manifest, and ErrCorrupt if a check fails. The caller
// closes the Reader before the bucket.
func Open(ctx context.Context, b store.Bucket, opts OpenOptions) (*Reader, error) {
	m, err := readManifest(ctx, b)
	if err != nil {
		return nil, err
	}
	return openWith(ctx, b, m, opts)
}

// calls counts the calls of a reader that are in progress.
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

// close makes begin fail. It reports whether this is its first call.
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
		parts: newCache[uint64, []extent](partsCacheSize), chunks: newCache[chunkKey, *chunk](chunksCacheSize), extents: newCache[uint64, *extentData](opts.CacheSize),
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
	if r.index, err = openIndex(ctx, o, m.Version, r.indexInfo, layout, r.pages); err != nil {
		r.index = nil
		o.Close()
		return nil, err
	}
	return r, r.checkCounts()
}

// checkCounts compares the counts of the manifest with those of the index.
func (r *Reader) checkCounts() error {
	var pages uint64
	for i, b := range r.manifest.Blocks {
		var n uint64
		for _, s := range r.index.chunks[i] {
			n += uint64(s.count)
		}
		if n != b.Pages {
			return corrupt(r.index.name, "it has %d pages of RAM block %q (the manifest has %d)", n, b.Name, b.Pages)
		}
		pages += n
	}
	if pages != r.manifest.Totals.Pages || r.index.extents != r.manifest.Totals.Extents {
		return corrupt(r.index.name, "it has %d pages in %d extents (the manifest has %d in %d)", pages, r.index.extents, r.manifest.Totals.Pages, r.manifest.Totals.Extents)
	}
	return nil
}

// Close ends the goroutines of the Reader and closes the objects. It waits for calls that
// are in progress; the caller can end them through their contexts. Later calls of other
// methods fail. A second Close does nothing. Close does not close the bucket.
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

// Manifest returns the manifest of the snapshot. The caller must not change it.
func (r *Reader) Manifest() *Manifest { return r.manifest }

// Layout returns the layout of the RAM blocks.
func (r *Reader) Layout() *guest.Layout { return r.layout }

// readRole reads the object of a role and verifies its digest. It returns nil if the
// snapshot has no object of the role.
func (r *Reader) readRole(ctx context.Context, role Role) ([]byte, error) {
	for _, info := range r.manifest.Objects {
		if info.Role != role {
			continue
		}
		// A sparse file can have any size. So verify the digest before
		// allocating memory for the whole object.
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
		if got := digestOf(r.manifest.Version, data); got != info.digest(r.manifest.Version) {
			return nil, corrupt(info.Name, "its digest is %s (the manifest has %s)", got, info.digest(r.manifest.Version))
		}
		return data, nil
	}
	return nil, nil
}

// Head returns the header and configuration of the migration stream, and checks them
// against the manifest.
func (r *Reader) Head(ctx context.Context) ([]byte, error) {
	head, err := r.readRole(ctx, RoleHead)
	if err != nil {
		return nil, err
	}
	return head, r.manifest.checkHead(head)
}

// Devices returns the migration stream from the first device section to its end.
func (r *Reader) Devices(ctx context.Context) ([]byte, error) { return r.readRole(ctx, RoleDevices) }

// States returns the device-state packets of multifd channels, or nil if there are none.
func (r *Reader) States(ctx context.Context) ([]devicestate.Packet, error) {
	data, err := r.readRole(ctx, RoleStates)
	if err != nil || data == nil {
		return nil, err
	}
	states, err := devicestate.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, corrupt("device-states", "%v", err)
	}
	return states, nil
}

// extent returns an entry of the extent table.
func (r *Reader) extent(ctx context.Context, n uint64) (extent, error) {
	part, err := r.parts.get(ctx, n/tableExtents, func() ([]extent, int64, error) {
		part, err := r.index.extentPart(ctx, int(n/tableExtents))
		return part, int64(len(part)) * extentMemory, err
	})
	if err != nil {
		return extent{}, err
	}
	return part[n%tableExtents], nil
}

// payload reads an extent into buf and verifies its checksum.
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
	if sumOf(r.manifest.Version, buf) != e.sum {
		return nil, corrupt(info.Name, "the digest of the extent of %d bytes at %d is wrong", e.length, e.offset)
	}
	return buf, nil
}

// chunkCount returns the number of chunks of a block.
func (r *Reader) chunkCount(b *guest.Block) uint32 {
	return uint32((r.layout.Pages(b) + chunkPages - 1) / chunkPages)
}

var errClosed = errors.New("snapshot: reader closed")

func contextErr(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
