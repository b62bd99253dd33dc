package migration_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store/storetest"
	"github.com/vmferry/vmferry/vmstate"
)

const (
	// wholeMemory bounds what one migration may allocate, in bytes: its codecs'
	// tables and 64 times what came.
	wholeMemory = 64 << 20
	// wholeHang is when a Receive counts as one that never ends.
	wholeHang = 2 * time.Minute
	// wholeSilence bounds the wait for a silent source.
	wholeSilence = 30 * time.Millisecond
)

// FuzzReceiveWhole receives whole migrations whose framing is right, and whose
// order and content are the fuzzer's, into memory and into a snapshot. Each ends;
// what keeps to the protocol arrives; and what is said to have arrived has.
//
//fuzz:inputs 5000
func FuzzReceiveWhole(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newWholeScript(t, in)
		t.Run("memory", func(t *testing.T) {
			mem := new(guestmem.Memory)
			if s.receiveInto(t, mem) == nil {
				return
			}
			defer mem.Close()
			s.check(t, func(b *guest.Block, off uint64) []byte { return mem.Bytes(b)[off : off+4096] }, mem.Layout())
		})
		t.Run("snapshot", func(t *testing.T) { s.receiveSnapshot(t) })
	})
}

// receiveInto runs the script; the result is nil if it failed.
func (s *wholeScript) receiveInto(t *testing.T, sink guest.Sink) *migration.Received {
	t.Helper()
	goroutines, allocated := runtime.NumGoroutine(), allocatedBytes()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if s.silent {
		stop := time.AfterFunc(wholeSilence, cancel)
		defer stop.Stop()
	}
	ln := &feeds{conns: make(chan net.Conn, len(s.conns)+len(s.extra))}
	total := 0
	for _, c := range slices.Concat(s.extra, s.conns) {
		total += c.Len()
		ln.conns <- newWholeEnd(c)
	}
	hang := time.AfterFunc(wholeHang, func() {
		buf := make([]byte, 1<<20)
		panic("Receive does not end:\n" + string(buf[:runtime.Stack(buf, true)]))
	})
	committed := false
	received, err := migration.Receive(ctx, ln, migration.ReceiveConfig{
		Commit: func(*migration.Received) error { committed = true; return nil },
		Wire:   migration.Wire{Channels: len(s.conns) - 1, Method: s.method}, Sink: sink, ConnectTimeout: 20 * time.Second,
		Main: vmstate.DestinationOptions{MaxDevices: 1 << 20},
	})
	hang.Stop()
	cancel()
	if grown := allocatedBytes() - allocated; grown > wholeMemory+64*uint64(total) {
		t.Errorf("%d bytes were allocated for %d that came", grown, total)
	}
	for range 10_000 {
		if runtime.NumGoroutine() <= goroutines {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if now := runtime.NumGoroutine(); now > goroutines {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines were left behind:\n%s", now-goroutines, buf[:runtime.Stack(buf, true)])
	}
	switch {
	case err == nil && received == nil:
		t.Error("neither an error nor a migration")
	case err != nil && received != nil:
		t.Error("an error and a migration")
	case err != nil && committed && !s.silent:
		t.Errorf("the source was told that all has arrived, and then: %v", err)
	case err != nil && !s.faulty:
		t.Errorf("a migration that keeps to the protocol: %v", err)
	}
	return received
}

func (s *wholeScript) receiveSnapshot(t *testing.T) {
	bucket := storetest.NewBucket()
	w, err := snapshot.Create(t.Context(), bucket, snapshot.Options{Store: snapshot.StoreRaw, ObjectSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	received := s.receiveInto(t, w)
	if received == nil {
		w.Abort(t.Context())
		return
	}
	if _, err := w.Finish(t.Context(), stored.Meta(received)); err != nil {
		if !s.faulty {
			t.Errorf("finishing a snapshot: %v", err)
		}
		w.Abort(t.Context())
		return
	}
	r, err := snapshot.Open(t.Context(), bucket, snapshot.OpenOptions{})
	if err != nil {
		t.Fatalf("what was received cannot be opened: %v", err)
	}
	defer r.Close()
	if _, err := r.Verify(t.Context(), nil); err != nil {
		t.Errorf("what was received is not sound: %v", err)
	}
	page := make([]byte, 4096)
	s.check(t, func(b *guest.Block, off uint64) []byte {
		if err := r.Page(t.Context(), b, off, page); err != nil {
			t.Fatal(err)
		}
		return page
	}, r.Layout())
}

// check compares the memory that arrived with the script's.
func (s *wholeScript) check(t *testing.T, page func(*guest.Block, uint64) []byte, l *guest.Layout) {
	t.Helper()
	if s.altered {
		return
	}
	for i, b := range l.Blocks {
		for n := range wholePages {
			if s.torn[wholePage{i, n}] {
				continue
			}
			got := page(b, uint64(n)*4096)
			if !slices.ContainsFunc(s.candidates(i, n), func(want []byte) bool { return bytes.Equal(got, want) }) {
				t.Errorf("page %d of %s is not what was sent", n, b.Name)
			}
		}
	}
}

func allocatedBytes() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// wholeEnd is this side's end of a connection: all that was rendered is there at
// once, and then its end or silence.
type wholeEnd struct {
	feed
	deadline time.Time
}

func newWholeEnd(c *wholeConn) *wholeEnd {
	e := new(wholeEnd)
	e.more.L = &e.mu
	e.data, e.closed = bytes.Clone(c.Bytes()), !c.silent
	return e
}

func (e *wholeEnd) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.data) == 0 {
		switch {
		case e.closed:
			return 0, io.EOF
		case !e.deadline.IsZero() && !time.Now().Before(e.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		e.more.Wait()
	}
	n := copy(p, e.data)
	e.data = e.data[n:]
	return n, nil
}

// Close loses what was not read, as a socket does.
func (e *wholeEnd) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.data, e.closed = nil, true
	e.more.Broadcast()
	return nil
}

func (e *wholeEnd) SetDeadline(at time.Time) error { return e.SetReadDeadline(at) }

func (e *wholeEnd) SetReadDeadline(at time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deadline = at
	if !at.IsZero() {
		time.AfterFunc(time.Until(at)+time.Millisecond, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.more.Broadcast()
		})
	}
	return nil
}
