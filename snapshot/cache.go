package snapshot

import (
	"container/list"
	"context"
	"sync"
)

// entryBytes is the approximate size in bytes of a cache entry without its value.
const entryBytes = 256

// cache is an LRU cache of loaded values, with a limit in bytes. It does not hold its
// lock during a load: calls for different keys load concurrently, and calls for one key
// share a load. It does not keep errors.
type cache[K comparable, V any] struct {
	limit int64

	mu      sync.Mutex
	held    int64 // bytes of the entries
	entries map[K]*list.Element
	recent  list.List // of *cacheEntry[K, V], the most recently used first
	loads   map[K]*load[V]
}

type cacheEntry[K comparable, V any] struct {
	key   K
	value V
	bytes int64
}

// load is a load in progress.
type load[V any] struct {
	done  chan struct{} // closed when the other fields are set
	value V
	err   error
	ended bool // err belongs to the loading call only, because its context ended
}

func newCache[K comparable, V any](limit int64) *cache[K, V] {
	return &cache[K, V]{limit: limit, entries: map[K]*list.Element{}, loads: map[K]*load[V]{}}
}

// get returns the value of a key. If the cache does not hold the value, get calls
// fetch, which returns the value and its size in bytes.
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
