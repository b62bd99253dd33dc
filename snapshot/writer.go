package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/multifd"
)

// Options say how a snapshot is written. The zero value is ready for use.
type Options struct {
	// Store is how pages are kept; "" is StoreFast.
	Store Store
	// Tool is noted in the manifest.
	Tool string
	// Accelerator deflates pages, if it has a device; nil is software. Its
	// owner closes it when the lanes are closed or the writer is aborted.
	Accelerator *multifd.Accelerator
	// ObjectSize is about how large an object of pages gets, in bytes; 0 is
	// 64 MiB.
	ObjectSize int64
}

// Writer writes one snapshot. It is the sink of a migration.
type Writer struct {
	bucket Bucket
	opts   Options
	codec  codec
	layout *guest.Layout
	tables []*table

	mu      sync.Mutex
	extents []extent
	objects []*pageObject
	names   []string // of all objects that were begun
	lanes   int
	devices []*hybrid.Channel // of lanes, until they are closed

	commits errgroup.Group
	bytes   atomic.Int64
}

// Create begins a snapshot in an empty bucket.
func Create(b Bucket, opts Options) (*Writer, error) {
	if opts.Store == "" {
		opts.Store = StoreFast
	}
	if opts.ObjectSize == 0 {
		opts.ObjectSize = 64 << 20
	}
	c, err := opts.Store.codec()
	if err != nil {
		return nil, err
	}
	names, err := b.List()
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("%w: %v holds %s", ErrExists, b, names[0])
	}
	return &Writer{bucket: b, opts: opts, codec: c}, nil
}

// Setup says what memory will come.
func (w *Writer) Setup(l *guest.Layout) error {
	if w.layout != nil {
		return errors.New("snapshot: the writer has its layout already")
	}
	w.layout = l
	for _, b := range l.Blocks {
		w.tables = append(w.tables, newTable(l, b))
	}
	return nil
}

// Bytes returns the bytes of pages written so far, superseded ones included.
func (w *Writer) Bytes() int64 { return w.bytes.Load() }

// newExtent reserves a number in the extent table.
func (w *Writer) newExtent() (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.extents) == maxExtents {
		return 0, errors.New("snapshot: too many extents")
	}
	w.extents = append(w.extents, extent{})
	return uint64(len(w.extents) - 1), nil
}

// pageObject is an object of pages that is being written by one lane.
type pageObject struct {
	index  uint32
	info   ObjectInfo
	w      ObjectWriter
	sum    hash.Hash
	sealed bool
	gone   bool // compacted away
}

func (w *Writer) newObject() (*pageObject, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := fmt.Sprintf("pages-%06d", len(w.objects))
	ow, err := w.create(name)
	if err != nil {
		return nil, err
	}
	o := &pageObject{index: uint32(len(w.objects)), info: ObjectInfo{Name: name, Role: RolePages}, w: ow, sum: sha256.New()}
	w.objects = append(w.objects, o)
	return o, nil
}

// create begins an object, which Abort removes.
func (w *Writer) create(name string) (ObjectWriter, error) {
	ow, err := w.bucket.Create(name)
	if err != nil {
		return nil, fmt.Errorf("snapshot: beginning %s: %w", name, err)
	}
	w.names = append(w.names, name)
	return ow, nil
}

func (o *pageObject) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	o.sum.Write(p[:n])
	o.info.Size += int64(n)
	if err != nil {
		err = fmt.Errorf("snapshot: writing %s: %w", o.info.Name, err)
	}
	return n, err
}

// seal makes the object durable, in the background: a lane has pages to take.
func (w *Writer) seal(o *pageObject) {
	o.sealed = true
	o.info.SHA256 = hex.EncodeToString(o.sum.Sum(nil))
	w.commits.Go(func() error {
		if err := o.w.Commit(); err != nil {
			return fmt.Errorf("snapshot: committing %s: %w", o.info.Name, err)
		}
		return nil
	})
}

// Meta is what a snapshot keeps besides pages.
type Meta struct {
	// Head and Devices are the main channel's, byte for byte.
	Head, Devices []byte
	States        []multifd.DeviceState
	Machine       Machine
}

// Finish completes the snapshot: all lanes are closed. It drops what was
// superseded if that is more than a quarter, writes the index, and last the
// manifest. After an error, Abort is to be called.
func (w *Writer) Finish(ctx context.Context, meta Meta) (*Manifest, error) {
	if w.layout == nil {
		return nil, errors.New("snapshot: no memory came")
	}
	if w.lanes != 0 {
		return nil, fmt.Errorf("snapshot: %d lanes are still open", w.lanes)
	}
	if err := w.compact(ctx); err != nil {
		return nil, err
	}
	if err := w.commits.Wait(); err != nil {
		return nil, err
	}
	m := &Manifest{
		Format: formatName, Version: formatVersion, Created: time.Now().UTC().Truncate(time.Second),
		Tool: w.opts.Tool, Machine: meta.Machine, Store: w.opts.Store,
	}
	renumber := make([]uint32, len(w.objects))
	for i, o := range w.objects {
		if !o.gone {
			renumber[i] = uint32(len(m.Objects))
			m.Objects = append(m.Objects, o.info)
		}
	}
	if err := w.writeIndex(ctx, m, renumber); err != nil {
		return nil, err
	}
	if err := w.writeMeta(m, meta); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	text, err := m.encode()
	if err != nil {
		return nil, err
	}
	if _, err := decodeManifest(text); err != nil {
		return nil, fmt.Errorf("snapshot: refusing to write a manifest that could not be read: %w", err)
	}
	return m, w.writeObject(manifestName, text)
}

func (w *Writer) writeMeta(m *Manifest, meta Meta) error {
	objects := []struct {
		name string
		role Role
		data []byte
	}{{"head", RoleHead, meta.Head}, {"devices", RoleDevices, meta.Devices}}
	if len(meta.States) > 0 {
		size := 0 // beforehand: a buffer that grows is copied again and again
		for i := range meta.States {
			size += multifd.DeviceStateHeader + len(meta.States[i].Data)
		}
		data := make([]byte, 0, size)
		var err error
		for i := range meta.States {
			if data, err = multifd.AppendDeviceState(data, &meta.States[i]); err != nil {
				return err
			}
		}
		objects = append(objects, struct {
			name string
			role Role
			data []byte
		}{"device-states", RoleStates, data})
	}
	for _, o := range objects {
		if err := w.writeObject(o.name, o.data); err != nil {
			return err
		}
		sum := sha256.Sum256(o.data)
		m.Objects = append(m.Objects, ObjectInfo{o.name, o.role, int64(len(o.data)), hex.EncodeToString(sum[:])})
	}
	return nil
}

func (w *Writer) writeObject(name string, data []byte) error {
	ow, err := w.create(name)
	if err != nil {
		return err
	}
	if _, err := ow.Write(data); err != nil {
		ow.Abort()
		return fmt.Errorf("snapshot: writing %s: %w", name, err)
	}
	if err := ow.Commit(); err != nil {
		return fmt.Errorf("snapshot: committing %s: %w", name, err)
	}
	return nil
}

// writeIndex writes the index with the extents that still hold a page, and
// counts.
func (w *Writer) writeIndex(ctx context.Context, m *Manifest, renumber []uint32) error {
	live := make([]uint64, len(w.extents)) // first pages that count, then the new number + 1
	var scratch []entry
	err := w.eachChunk(ctx, &scratch, func(int, int) error {
		for _, e := range scratch {
			live[e.loc.extent()]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	var kept []extent
	for i, n := range live {
		e := w.extents[i]
		if n == 0 {
			if e.count > 0 && !w.objects[e.object].gone {
				m.Totals.Superseded += uint64(e.count)
			}
			continue
		}
		m.Totals.Superseded += uint64(e.count) - n
		m.Totals.PageBytes += int64(e.length)
		e.object = renumber[e.object]
		kept = append(kept, e)
		live[i] = uint64(len(kept))
	}
	m.Totals.Extents = uint64(len(kept))

	const name = "index"
	ow, err := w.create(name)
	if err != nil {
		return err
	}
	o := &pageObject{info: ObjectInfo{Name: name, Role: RoleIndex}, w: ow, sum: sha256.New()}
	if err := w.fillIndex(ctx, m, o, kept, live); err != nil {
		ow.Abort()
		return err
	}
	w.seal(o)
	if err := w.commits.Wait(); err != nil {
		return err
	}
	m.Totals.IndexBytes = o.info.Size
	m.Objects = append(m.Objects, o.info)
	return nil
}

func (w *Writer) fillIndex(ctx context.Context, m *Manifest, o *pageObject, kept []extent, number []uint64) error {
	x := &indexWriter{w: o}
	if err := x.extentTable(kept); err != nil {
		return err
	}
	for _, b := range w.layout.Blocks {
		m.Blocks = append(m.Blocks, BlockInfo{Name: b.Name, Length: b.Length, HugePage: b.HugePage})
	}
	var scratch []entry
	err := w.eachChunk(ctx, &scratch, func(block, n int) error {
		for i := range scratch {
			l := scratch[i].loc
			scratch[i].loc = at(number[l.extent()]-1, l.slot())
		}
		m.Blocks[block].Pages += uint64(len(scratch))
		return x.chunk(block, n, scratch)
	})
	if err != nil {
		return err
	}
	for i, b := range w.layout.Blocks {
		m.Totals.Pages += m.Blocks[i].Pages
		m.Totals.Zero += w.layout.Pages(b) - m.Blocks[i].Pages
	}
	return x.finish()
}

// eachChunk fills scratch with each chunk of each block in turn.
func (w *Writer) eachChunk(ctx context.Context, scratch *[]entry, f func(block, n int) error) error {
	for block, t := range w.tables {
		for n := range t.chunks {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			*scratch = t.entries((*scratch)[:0], n)
			if err := f(block, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// Abort removes all that was written. The lanes' goroutines have ended.
func (w *Writer) Abort() error {
	for _, c := range w.devices {
		w.opts.Accelerator.Cleanup(c)
	}
	w.devices = nil
	w.commits.Wait() // a commit that failed is being removed anyway
	for _, o := range w.objects {
		if !o.sealed {
			o.w.Abort()
		}
	}
	// The manifest goes first: without it there is no snapshot.
	var first error
	for _, name := range slices.Backward(w.names) {
		if err := w.bucket.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) && first == nil {
			first = fmt.Errorf("snapshot: removing what there is of an unfinished snapshot: %w", err)
		}
	}
	return first
}
