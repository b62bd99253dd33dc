package snapshot

import (
	"container/list"
	"context"
	"sync"
)

// entryBytes is about what an entry of a cache takes besides its value.
const entryBytes = 256

// cache keeps what was loaded, the values used last, up to a bound of bytes.
// Nothing is loaded under its lock: calls for different keys load at the same
// time, calls for one key share a load. Errors are not kept.
type cache[K comparable, V any] struct {
	limit int64

	mu      sync.Mutex
	held    int64 // bytes of the entries
	entries map[K]*list.Element
	recent  list.List // of *cacheEntry[K, V], the one used last in front
	loads   map[K]*load[V]
}

type cacheEntry[K comparable, V any] struct {
	key   K
	value V
	bytes int64
}

// load is a load under way.
type load[V any] struct {
	done  chan struct{} // closed when the rest is set
	value V
	err   error
	ended bool // the context of the call that loads has ended: the error is that call's
}

func newCache[K comparable, V any](limit int64) *cache[K, V] {
	return &cache[K, V]{limit: limit, entries: map[K]*list.Element{}, loads: map[K]*load[V]{}}
}

// get returns the value of a key, and loads it if it is not kept. fetch returns
// the bytes that the value takes too.
func (c *cache[K, V]) get(ctx context.Context, key K, fetch func() (V, int64, error)) (V, error) {
	for {
		c.mu.Lock()
		if e := c.entries[key]; e != nil {
			c.recent.MoveToFront(e)
			c.mu.Unlock()
			return e.Value.(*cacheEntry[K, V]).value, nil
		}
		l := c.loads[key]
		if l == nil {
			l = &load[V]{done: make(chan struct{})}
			c.loads[key] = l
			c.mu.Unlock()
			return c.load(ctx, key, l, fetch)
		}
		c.mu.Unlock()
		select {
		case <-l.done:
		case <-ctx.Done():
			var none V
			return none, context.Cause(ctx)
		}
		if !l.ended {
			return l.value, l.err
		}
	}
}

func (c *cache[K, V]) load(ctx context.Context, key K, l *load[V], fetch func() (V, int64, error)) (V, error) {
	var bytes int64
	l.value, bytes, l.err = fetch()
	bytes += entryBytes
	l.ended = l.err != nil && ctx.Err() != nil
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.loads, key)
	if l.err == nil && bytes <= c.limit {
		c.entries[key] = c.recent.PushFront(&cacheEntry[K, V]{key, l.value, bytes})
		for c.held += bytes; c.held > c.limit; {
			c.dropLast()
		}
	}
	close(l.done)
	return l.value, l.err
}

func (c *cache[K, V]) dropLast() {
	e := c.recent.Remove(c.recent.Back()).(*cacheEntry[K, V])
	delete(c.entries, e.key)
	c.held -= e.bytes
}

// clear drops all values.
func (c *cache[K, V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.recent.Len() > 0 {
		c.dropLast()
	}
}
