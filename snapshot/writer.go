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

// Options say how a snapshot is written. The zero value is ready for use.
type Options struct {
	// Store is how pages are kept; "" is StoreFast.
	Store Store
	// Tool is noted in the manifest.
	Tool string
	// Accelerator deflates pages, if it has a device; nil is software. Its
	// owner closes it when the lanes are closed or the writer is aborted.
	Accelerator *pagecodec.Accelerator
	// ObjectSize is about how large the first objects of pages get, in
	// bytes; 0 is 64 MiB, and less where MaxSize is small. Later ones get
	// larger, so that even a hundred TiB are some thousand objects.
	ObjectSize int64
	// MaxSize bounds the bytes of all objects at any moment, those of
	// superseded pages included; 0 does not. A snapshot that gets larger fails
	// with ErrTooLarge.
	MaxSize int64
}

// Writer writes one snapshot. It is the sink of a migration.
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
	reused  bool     // some of them were taken again
	objects []*pageObject
	gone    int // of them
	// committed are the names of the objects that Finish committed, or tried to.
	committed []string
	lanes     int
	encoders  []pagecodec.Encoder // of lanes, until they are closed

	seals  errgroup.Group
	bytes  atomic.Int64
	stored atomic.Int64 // bytes of all objects that are there
	sweep  sweep
}

// Create begins a snapshot in an empty bucket. Otherwise the error wraps
// ErrExists. The lanes write with ctx: when it ends, they fail.
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
		return fmt.Errorf("%w: %v holds a snapshot; remove it or save to another name", ErrExists, b)
	}
	if len(names) > 0 {
		return fmt.Errorf("%w: %v holds %s and no complete snapshot (remove it if a killed save left it behind, or save to another name)", ErrExists, b, names[0])
	}
	return nil
}

// Setup says what memory will come.
func (w *Writer) Setup(l *guest.Layout) error {
	if w.layout != nil {
		return errors.New("snapshot: the writer has its layout already")
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

// Bytes returns the bytes of pages written so far, superseded ones included.
func (w *Writer) Bytes() int64 { return w.bytes.Load() }

// newExtent reserves a number in the extent table.
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

// Abort removes all that was written, even when ctx has ended. The lanes'
// goroutines have ended.
func (w *Writer) Abort(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	for _, e := range w.encoders {
		e.Close()
	}
	w.encoders = nil
	w.seals.Wait() // Finish said what went wrong
	var first error
	note := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) && first == nil {
			first = fmt.Errorf("snapshot: removing what there is of an unfinished snapshot: %w", err)
		}
	}
	// The manifest goes first: without it there is no snapshot.
	for _, name := range slices.Backward(w.committed) {
		note(w.bucket.Remove(ctx, name))
	}
	for _, o := range w.objects {
		if o.w == nil || o.gone {
			continue
		}
		if err := o.w.Abort(ctx); !errors.Is(err, fs.ErrClosed) { // unless it is committed
			note(err)
		}
	}
	return first
}
