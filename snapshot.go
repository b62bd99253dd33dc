package vmferry

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
)

// Snapshot names a snapshot, and says how a new one is kept.
type Snapshot struct {
	// Path is its directory. A new snapshot makes it.
	Path string
	// Store is how a new snapshot keeps pages; "" is snapshot.StoreFast.
	Store snapshot.Store
	// MaxSize is the most bytes that a new snapshot has at any moment, pages that
	// later rounds replaced included; 0 is no bound.
	MaxSize int64
	// Tool is noted in a new snapshot as its maker.
	Tool string
}

// newSnapshot is a snapshot that is being written.
type newSnapshot struct {
	path     string
	dir      *store.Dir
	writer   *snapshot.Writer
	manifest *snapshot.Manifest // nil until the snapshot is complete
}

// create makes the directory and begins the snapshot. close has to be called.
//
// The end of ctx does not end the writing of pages: the migration that brings them ends
// first.
func (s Snapshot) create(ctx context.Context, acc *pagecodec.Accelerator) (*newSnapshot, error) {
	dir, err := store.CreateDir(s.Path)
	if err != nil {
		return nil, err
	}
	w, err := snapshot.Create(context.WithoutCancel(ctx), dir, snapshot.Options{Store: s.Store, Tool: s.Tool, MaxSize: s.MaxSize, Accelerator: acc})
	if err != nil {
		return nil, errors.Join(err, dir.RemoveDir(), dir.Close())
	}
	return &newSnapshot{path: s.Path, dir: dir, writer: w}, nil
}

// finish makes the snapshot complete and durable.
func (n *newSnapshot) finish(ctx context.Context, meta snapshot.Meta) (err error) {
	n.manifest, err = n.writer.Finish(ctx, meta)
	return err
}

// close removes a snapshot that is not complete, and returns err with what went wrong.
//
// A source that learns that the snapshot is complete gives its machine up. So a complete
// snapshot stays, whatever fails later.
func (n *newSnapshot) close(ctx context.Context, err error) error {
	if n.manifest == nil {
		err = errors.Join(err, n.writer.Abort(ctx), n.dir.RemoveDir())
	} else if err != nil {
		err = fmt.Errorf("%w (the snapshot %s is complete and stays)", err, n.path)
	}
	return errors.Join(err, n.dir.Close())
}

// openedSnapshot is a reader that closes its directory too.
type openedSnapshot struct {
	*snapshot.Reader
	dir *store.Dir
}

func (o openedSnapshot) Close() error { return errors.Join(o.Reader.Close(), o.dir.Close()) }

// open opens a complete snapshot.
func (s Snapshot) open(ctx context.Context) (openedSnapshot, error) {
	dir, err := store.OpenDir(s.Path)
	if err != nil {
		return openedSnapshot{}, err
	}
	r, err := snapshot.Open(ctx, dir, snapshot.OpenOptions{})
	if err != nil {
		return openedSnapshot{}, errors.Join(err, dir.Close())
	}
	return openedSnapshot{r, dir}, nil
}
