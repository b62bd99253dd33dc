package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/store"
)

// objectCache opens page objects when they are read, and keeps the last openObjects open,
// because a large snapshot has more objects than a process has file descriptors. It does
// not hold its lock while it opens or closes an object.
type objectCache struct {
	openObject func(ctx context.Context, index uint32) (store.Object, error)

	mu     sync.Mutex
	open   map[uint32]*cachedObject
	recent []*cachedObject // the most recently used last
	closed bool
}

// cachedObject is an object of the cache. It is closed when it is evicted and has no
// users.
type cachedObject struct {
	store.Object // nil if opening failed
	index        uint32
	users        int
	evicted      bool

	ready chan struct{} // closed when the object is open, or err is set
	err   error
	ended bool // err belongs to the opening call only, because its context ended
}

func newObjectCache(open func(ctx context.Context, index uint32) (store.Object, error)) *objectCache {
	return &objectCache{openObject: open, open: map[uint32]*cachedObject{}}
}

// openNamed opens an object of the snapshot. An entry that is not an object makes the
// snapshot corrupt.
func openNamed(ctx context.Context, b store.Bucket, name string) (store.Object, error) {
	o, err := b.Open(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotObject):
		return nil, corrupt(name, "%v", err)
	case err != nil:
		return nil, err
	}
	return o, nil
}

// openObject opens an object and compares its size with the manifest's.
func openObject(ctx context.Context, b store.Bucket, info ObjectInfo) (store.Object, error) {
	o, err := openNamed(ctx, b, info.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, corrupt(info.Name, "the object is missing")
	}
	if err != nil {
		return nil, err
	}
	if o.Size() != info.Size {
		o.Close()
		return nil, corrupt(info.Name, "%d bytes (the manifest has %d)", o.Size(), info.Size)
	}
	return o, nil
}

// use returns an open object. The caller releases it.
func (c *objectCache) use(ctx context.Context, index uint32) (*cachedObject, error) {
	for {
		o, dropped, first, err := c.find(index)
		if err != nil {
			return nil, err
		}
		if first {
			o.Object, o.err = c.openObject(ctx, index)
			o.ended = o.err != nil && ctx.Err() != nil
			err := errors.Join(o.err, dropped.close())
			if err != nil {
				c.remove(o) // release closes the object
			}
			close(o.ready)
			if err != nil {
				return nil, errors.Join(err, c.release(o))
			}
			return o, nil
		}
		select {
		case <-o.ready:
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), c.release(o))
		}
		if o.err == nil {
			return o, nil
		}
		if err := errors.Join(o.err, c.release(o)); !o.ended {
			return nil, err
		}
	}
}

// find returns an object with one more user. If first is true, that user opens the
// object, and closes the object dropped that was evicted for it.
func (c *objectCache) find(index uint32) (o, dropped *cachedObject, first bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, false, errClosed
	}
	if o = c.open[index]; o != nil {
		o.users++
		c.markRecent(o)
		return o, nil, false, nil
	}
	o = &cachedObject{index: index, users: 1, ready: make(chan struct{})}
	c.open[index] = o
	c.recent = append(c.recent, o)
	if len(c.recent) > openObjects {
		dropped = c.evict(c.recent[0])
	}
	return o, dropped, true, nil
}

// markRecent makes o the most recently used object.
func (c *objectCache) markRecent(o *cachedObject) {
	last := len(c.recent) - 1
	for i := last; i >= 0; i-- {
		if c.recent[i] == o {
			copy(c.recent[i:], c.recent[i+1:])
			c.recent[last] = o
			return
		}
	}
}

// evict removes an object from the cache. It returns the object if the caller must close
// it.
func (c *objectCache) evict(o *cachedObject) *cachedObject {
	if o.evicted {
		return nil
	}
	delete(c.open, o.index)
	c.recent = slices.DeleteFunc(c.recent, func(other *cachedObject) bool { return other == o })
	o.evicted = true
	if o.users > 0 {
		return nil // release closes it
	}
	return o
}

// remove evicts an object that has users.
func (c *objectCache) remove(o *cachedObject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.evict(o)
}

// close closes the object, if it is open.
func (o *cachedObject) close() error {
	if o == nil || o.Object == nil {
		return nil
	}
	return o.Close()
}

// release ends a use. It closes the object if it is evicted and has no other user.
func (c *objectCache) release(o *cachedObject) error {
	c.mu.Lock()
	o.users--
	last := o.users == 0 && o.evicted
	c.mu.Unlock()
	if last {
		return o.close()
	}
	return nil
}

// check opens each of n objects once, which checks its existence and size.
func (c *objectCache) check(ctx context.Context, n int) error {
	for i := range n {
		o, err := c.use(ctx, uint32(i))
		if err != nil {
			return err
		}
		if err := c.release(o); err != nil {
			return err
		}
	}
	return nil
}

// close evicts all objects. Later calls of use fail.
func (c *objectCache) close() error {
	c.mu.Lock()
	c.closed = true
	var unused []*cachedObject
	for len(c.recent) > 0 {
		unused = append(unused, c.evict(c.recent[0]))
	}
	c.mu.Unlock()
	var first error
	for _, o := range unused {
		if err := o.close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
