package snapshot

import (
	"errors"
	"io/fs"
	"sync"
)

// objectCache opens objects of pages when they are read, and keeps the last few
// open: a process has fewer file descriptors than a large snapshot objects.
type objectCache struct {
	bucket Bucket
	infos  []ObjectInfo

	mu     sync.Mutex
	open   map[uint32]*cachedObject
	recent []*cachedObject // the one used last is last
	closed bool
}

// cachedObject is closed when it is out of the cache and nobody reads it.
type cachedObject struct {
	Object
	index uint32
	users int
	out   bool
}

func newObjectCache(b Bucket, infos []ObjectInfo) *objectCache {
	return &objectCache{bucket: b, infos: infos, open: map[uint32]*cachedObject{}}
}

// openObject opens an object and compares its size with the manifest's.
func openObject(b Bucket, info ObjectInfo) (Object, error) {
	o, err := b.Open(info.Name)
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
func (c *objectCache) use(index uint32) (*cachedObject, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if o := c.open[index]; o != nil {
		o.users++
		c.touch(o)
		return o, nil
	}
	opened, err := openObject(c.bucket, c.infos[index])
	if err != nil {
		return nil, err
	}
	o := &cachedObject{Object: opened, index: index, users: 1}
	c.open[index] = o
	c.recent = append(c.recent, o)
	if len(c.recent) > openObjects {
		if err := c.drop(c.recent[0]); err != nil {
			o.users = 0
			return nil, errors.Join(err, c.drop(o))
		}
	}
	return o, nil
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

// drop takes an object out of the cache.
func (c *objectCache) drop(o *cachedObject) error {
	delete(c.open, o.index)
	for i, other := range c.recent {
		if other == o {
			c.recent = append(c.recent[:i], c.recent[i+1:]...)
			break
		}
	}
	o.out = true
	if o.users > 0 {
		return nil // release closes it
	}
	return o.Close()
}

// release ends what use began.
func (c *objectCache) release(o *cachedObject) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.users--; o.users == 0 && o.out {
		return o.Close()
	}
	return nil
}

// check opens each object once, which compares its size.
func (c *objectCache) check() error {
	for i := range c.infos {
		o, err := c.use(uint32(i))
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
	defer c.mu.Unlock()
	c.closed = true
	var first error
	for len(c.recent) > 0 {
		if err := c.drop(c.recent[0]); err != nil && first == nil {
			first = err
		}
	}
	return first
}
