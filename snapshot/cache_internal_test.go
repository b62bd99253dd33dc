package snapshot

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestCache_HoldsNoMoreThanItsBound(t *testing.T) {
	const value = 1000
	c := newCache[int, []byte](3*(value+entryBytes) + 10)
	loads := 0
	get := func(key, size int) {
		t.Helper()
		got, err := c.get(t.Context(), key, func() ([]byte, int64, error) {
			loads++
			return make([]byte, size), int64(size), nil
		})
		if err != nil || len(got) != size {
			t.Fatal(len(got), err)
		}
		if c.held > c.limit || c.held < 0 || len(c.entries) != c.recent.Len() {
			t.Fatalf("%d bytes in %d of %d entries, more than %d", c.held, len(c.entries), c.recent.Len(), c.limit)
		}
	}
	for key := range 10 {
		get(key, value)
	}
	if loads != 10 || len(c.entries) != 3 {
		t.Fatalf("%d loads, %d entries", loads, len(c.entries))
	}
	get(7, value) // kept, and now the one used last
	get(10, value)
	get(7, value)
	if loads != 11 {
		t.Errorf("%d loads, want 11: the value used last was dropped", loads)
	}
	get(8, value)
	if loads != 12 {
		t.Errorf("%d loads, want 12: the value used first was kept", loads)
	}
	get(11, 10*value) // does not fit at all
	get(7, value)
	if loads != 13 {
		t.Errorf("%d loads, want 13: a value beyond the bound drove others out", loads)
	}
	if c.clear(); c.held != 0 || len(c.entries) != 0 {
		t.Errorf("after clear: %d bytes, %d entries", c.held, len(c.entries))
	}
}

func TestCache_ErrorsAreNotKept(t *testing.T) {
	c := newCache[int, int](1 << 20)
	boom := errors.New("boom")
	for _, want := range []error{boom, boom, nil} {
		if _, err := c.get(t.Context(), 1, func() (int, int64, error) { return 0, 1, want }); err != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if len(c.loads) != 0 || len(c.entries) != 1 {
		t.Errorf("%d loads, %d entries", len(c.loads), len(c.entries))
	}
}

// The first call loads until all others have begun. None of them loads.
func TestCache_CallsForOneKeyShareALoad(t *testing.T) {
	c := newCache[int, int](1 << 20)
	loading, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	get := func(fetch func() (int, int64, error)) {
		wg.Go(func() {
			if v, err := c.get(t.Context(), 1, fetch); v != 7 || err != nil {
				t.Errorf("got %d, %v", v, err)
			}
		})
	}
	get(func() (int, int64, error) {
		close(loading)
		<-release
		return 7, 1, nil
	})
	<-loading
	for range 8 {
		get(func() (int, int64, error) {
			t.Error("a second load")
			return 7, 1, nil
		})
	}
	close(release)
	wg.Wait()
}

// A call that waits for another's load ends with its own context. When the
// loading call's context ends, a call that waits loads again.
func TestCache_ContextsOfLoadAndOfWaiting(t *testing.T) {
	c := newCache[int, int](1 << 20)
	first, endFirst := context.WithCancelCause(t.Context())
	firstCause, waitingCause := errors.New("the first call ended"), errors.New("the waiting call ended")
	loading := make(chan struct{})
	firstErr, thirdErr := make(chan error), make(chan error)
	go func() {
		_, err := c.get(first, 1, func() (int, int64, error) {
			close(loading)
			<-first.Done()
			return 0, 0, context.Cause(first)
		})
		firstErr <- err
	}()
	<-loading
	waiting, endWaiting := context.WithCancelCause(t.Context())
	endWaiting(waitingCause)
	if _, err := c.get(waiting, 1, nil); !errors.Is(err, waitingCause) {
		t.Errorf("the waiting call: %v", err)
	}
	go func() {
		v, err := c.get(t.Context(), 1, func() (int, int64, error) { return 7, 1, nil })
		if v != 7 {
			t.Errorf("the third call got %d", v)
		}
		thirdErr <- err
	}()
	endFirst(firstCause)
	if err := <-firstErr; !errors.Is(err, firstCause) {
		t.Errorf("the first call: %v", err)
	}
	if err := <-thirdErr; err != nil {
		t.Errorf("the third call: %v", err)
	}
}
