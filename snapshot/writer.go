package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/store"
)

// Options configure a Writer. The zero value selects the defaults.
type Options struct {
	// Store is the encoding of pages. "" selects StoreFast.
	Store Store
	// Tool is the name of the program for the manifest, at most 1024 bytes.
	Tool string
	// Accelerator deflates pages, on its device if it has one. Nil selects
	// software. Its owner closes it after the lanes are closed or the Writer is
	// aborted.
	Accelerator *pagecodec.Accelerator
	// ObjectSize is the approximate size in bytes of the first page objects. 0
	// selects 64 MiB, or less if MaxSize is small. Later objects are larger, so
	// that 100 TiB take some thousand objects.
	ObjectSize int64
	// MaxSize is the largest total size of all objects in bytes at any time,
	// including superseded pages. 0 means no limit. If a snapshot exceeds it, the
	// error wraps ErrTooLarge.
	MaxSize int64
}

// Writer writes one snapshot. It is a guest.Sink: Setup, lanes of several goroutines,
// then Finish or Abort. The caller serializes the methods except Lane and Bytes.
type Writer struct {
	ctx    context.Context // of the lanes
	bucket store.Bucket
	opts   Options
	codec  codec
	layout *guest.Layout
	tables []*table

	mu      sync.Mutex
	extents []extent
	free    []uint64 // numbers of extents whose objects were aborted
	reused  bool     // an extent number was reused
	objects []*pageObject
	gone    int             // number of objects that are gone
	written []writtenObject // the objects that are no page objects
	// committed are the names of the objects that Finish committed or tried to
	// commit.
	committed []string
	lanes     int                 // number of open lanes
	unsealed  []*pageObject       // the last ones of closed lanes, which Finish seals
	encoders  []pagecodec.Encoder // of open lanes

	seals  errgroup.Group
	bytes  atomic.Int64
	stored atomic.Int64 // bytes of all objects that exist
	sweep  sweep
}

// writtenObject is an object of a writer that is no page object.
type writtenObject struct {
	name string
	w    store.Writer
}

// Create begins a snapshot in an empty bucket. If the bucket is not empty, the error wraps
// ErrExists. The lanes write with ctx: they fail when it ends.
func Create(ctx context.Context, b store.Bucket, opts Options) (*Writer, error) {
	if opts.Store == "" {
		opts.Store = StoreFast
	}
	if opts.ObjectSize == 0 {
		opts.ObjectSize = firstObjectSize(opts.MaxSize)
	}
	c, err := opts.Store.codec()
	if err != nil {
		return nil, err
	}
	if err := checkEmpty(ctx, b); err != nil {
		return nil, err
	}
	return &Writer{ctx: ctx, bucket: b, opts: opts, codec: c}, nil
}

func checkEmpty(ctx context.Context, b store.Bucket) error {
	names, err := b.List(ctx)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if slices.Contains(names, manifestName) {
		return fmt.Errorf("%w: %v holds a snapshot (remove it, or save to another name)", ErrExists, b)
	}
	if len(names) > 0 {
		return fmt.Errorf("%w: %v holds %s but no complete snapshot (remove it if a killed save left it behind, or save to another name)", ErrExists, b, names[0])
	}
	return nil
}

// Setup sets the layout of the memory. It succeeds once.
func (w *Writer) Setup(l *guest.Layout) error {
	if w.layout != nil {
		return errors.New("snapshot: the writer already has a layout")
	}
	if err := checkBlockNames(l); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	w.layout = l
	for _, b := range l.Blocks {
		w.tables = append(w.tables, newTable(l, b))
	}
	return nil
}

// Bytes returns the number of bytes of encoded pages written so far, including superseded
// pages.
func (w *Writer) Bytes() int64 { return w.bytes.Load() }

// newExtent reserves an extent number.
func (w *Writer) newExtent() (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.free); n > 0 {
		number := w.free[n-1]
		w.free, w.reused = w.free[:n-1], true
		return number, nil
	}
	if len(w.extents) >= maxExtents-1 {
		return 0, errors.New("snapshot: too many extents")
	}
	w.extents = append(w.extents, extent{})
	return uint64(len(w.extents) - 1), nil
}

// Abort removes all objects of the snapshot, even if ctx has ended. The goroutines of the
// lanes must have ended.
func (w *Writer) Abort(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	for _, e := range w.encoders {
		e.Close()
	}
	w.encoders = nil
	w.seals.Wait() // Finish returned the error
	var first error
	note := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) && first == nil {
			first = fmt.Errorf("snapshot: removing an unfinished snapshot: %w", err)
		}
	}
	// The manifest goes first: without it there is no snapshot.
	for _, name := range slices.Backward(w.committed) {
		note(w.bucket.Remove(ctx, name))
	}
	abort := func(ow store.Writer) {
		if err := ow.Abort(ctx); !errors.Is(err, fs.ErrClosed) { // fs.ErrClosed: already committed
			note(err)
		}
	}
	for _, o := range w.written {
		abort(o.w)
	}
	for _, o := range w.objects {
		if o.w != nil && !o.gone {
			abort(o.w)
		}
	}
	return first
}
