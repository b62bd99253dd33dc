package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/store"
)

// objectCache opens objects of pages when they are read, and keeps the last few
// open: a process has fewer file descriptors than a large snapshot objects.
// Nothing is opened or closed under its lock.
type objectCache struct {
	opens func(ctx context.Context, index uint32) (store.Object, error)

	mu     sync.Mutex
	open   map[uint32]*cachedObject
	recent []*cachedObject // the one used last is last
	closed bool
}

// cachedObject is closed when it is out of the cache and has no users.
type cachedObject struct {
	store.Object // nil if it could not be opened
	index        uint32
	users        int
	out          bool

	ready chan struct{} // closed when the object is open, or err is set
	err   error
	ended bool // the context of the call that opens has ended: the error is that call's
}

func newObjectCache(opens func(ctx context.Context, index uint32) (store.Object, error)) *objectCache {
	return &objectCache{opens: opens, open: map[uint32]*cachedObject{}}
}

// openNamed opens an object that the manifest names.
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
		return nil, corrupt(info.Name, "%d bytes (the manifest says %d)", o.Size(), info.Size)
	}
	return o, nil
}

// use returns an open object, which is to be released.
func (c *objectCache) use(ctx context.Context, index uint32) (*cachedObject, error) {
	for {
		o, dropped, first, err := c.find(index)
		if err != nil {
			return nil, err
		}
		if first {
			o.Object, o.err = c.opens(ctx, index)
			o.ended = o.err != nil && ctx.Err() != nil
			err := errors.Join(o.err, dropped.close())
			if err != nil {
				c.drop(o) // this call uses it: release closes it
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

// find returns an object with one more user. If it is new, that user opens it,
// and closes what has to make room.
func (c *objectCache) find(index uint32) (o, dropped *cachedObject, first bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, false, errClosed
	}
	if o = c.open[index]; o != nil {
		o.users++
		c.touch(o)
		return o, nil, false, nil
	}
	o = &cachedObject{index: index, users: 1, ready: make(chan struct{})}
	c.open[index] = o
	c.recent = append(c.recent, o)
	if len(c.recent) > openObjects {
		dropped = c.take(c.recent[0])
	}
	return o, dropped, true, nil
}

// touch makes o the one that is dropped last.
func (c *objectCache) touch(o *cachedObject) {
	last := len(c.recent) - 1
	for i := last; i >= 0; i-- {
		if c.recent[i] == o {
			copy(c.recent[i:], c.recent[i+1:])
			c.recent[last] = o
			return
		}
	}
}

// take takes an object out of the cache, and returns it if it is to be closed.
func (c *objectCache) take(o *cachedObject) *cachedObject {
	if o.out {
		return nil
	}
	delete(c.open, o.index)
	c.recent = slices.DeleteFunc(c.recent, func(other *cachedObject) bool { return other == o })
	o.out = true
	if o.users > 0 {
		return nil // release closes it
	}
	return o
}

// drop takes out an object that has users.
func (c *objectCache) drop(o *cachedObject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(o)
}

// close closes the object, if there is one.
func (o *cachedObject) close() error {
	if o == nil || o.Object == nil {
		return nil
	}
	return o.Close()
}

// release ends what use began.
func (c *objectCache) release(o *cachedObject) error {
	c.mu.Lock()
	o.users--
	last := o.users == 0 && o.out
	c.mu.Unlock()
	if last {
		return o.close()
	}
	return nil
}

// check opens each of n objects once, which compares its size.
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

// close drops all objects. None can be used afterwards.
func (c *objectCache) close() error {
	c.mu.Lock()
	c.closed = true
	var unused []*cachedObject
	for len(c.recent) > 0 {
		unused = append(unused, c.take(c.recent[0]))
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
