package slowlink

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Proxy delays TCP connections. It passes on data, the end of each direction, and resets.
type Proxy struct {
	// Delay is that of each direction: the round trip takes twice as long.
	Delay time.Duration
	// Window bounds the bytes on the way in each direction of a connection. A link with
	// a rate needs rate times Delay, or the window limits the rate.
	Window int
}

// WindowOf returns a window that does not limit a link with a rate in bits a second: twice
// the bytes on the way.
func WindowOf(bitsPerSecond float64, delay time.Duration) int {
	return max(2*int(bitsPerSecond/8*delay.Seconds()), readSize)
}

// readSize is the largest piece of data that a proxy delays as one.
const readSize = 64 << 10

// Serve accepts connections from ln and forwards each to a connection that dial makes. It
// closes ln and all connections when ctx ends, and returns when they have ended.
func (p Proxy) Serve(ctx context.Context, ln net.Listener, dial func(context.Context) (*net.TCPConn, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	for {
		accepted, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		connections.Go(func() { p.forward(ctx, accepted.(*net.TCPConn), dial) })
	}
}

func (p Proxy) forward(ctx context.Context, source *net.TCPConn, dial func(context.Context) (*net.TCPConn, error)) {
	defer source.Close()
	destination, err := dial(ctx)
	if err != nil {
		reset(source)
		return
	}
	defer destination.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		source.Close()
		destination.Close()
	})()
	var directions sync.WaitGroup
	directions.Go(func() { p.copy(ctx, destination, source) })
	directions.Go(func() { p.copy(ctx, source, destination) })
	directions.Wait()
}

// copy copies one direction of a connection, and its end, with the delay.
func (p Proxy) copy(ctx context.Context, to, from *net.TCPConn) {
	q := newQueue(p.Window)
	defer context.AfterFunc(ctx, q.close)()
	var reading sync.WaitGroup
	defer reading.Wait()
	defer q.close()
	reading.Go(func() { p.read(from, q) })
	for {
		c, ok := q.take()
		if !ok {
			return
		}
		if !sleepUntil(ctx, c.due) {
			return
		}
		switch {
		case errors.Is(c.err, io.EOF):
			to.CloseWrite()
			return
		case c.err != nil:
			reset(to)
			return
		}
		if _, err := to.Write(c.data); err != nil {
			// The reset has to travel back.
			sleepUntil(ctx, time.Now().Add(p.Delay))
			reset(from)
			return
		}
		q.arrived(len(c.data))
	}
}

// read reads data into the queue until the direction ends.
func (p Proxy) read(from net.Conn, q *queue) {
	buf := make([]byte, readSize)
	for {
		n, err := from.Read(buf)
		due := time.Now().Add(p.Delay)
		if n > 0 && !q.put(chunk{due: due, data: append([]byte(nil), buf[:n]...)}) {
			return
		}
		if err != nil {
			q.put(chunk{due: due, err: err})
			return
		}
	}
}

// reset closes a connection so that its peer sees a reset.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// sleepUntil reports whether the time was reached before ctx ended.
func sleepUntil(ctx context.Context, at time.Time) bool {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// chunk is data, or the end of a direction, with the time at which it arrives.
type chunk struct {
	due  time.Time
	data []byte
	err  error
}

// queue has the chunks on the way in one direction.
type queue struct {
	window int

	mu     sync.Mutex
	change sync.Cond
	chunks []chunk
	bytes  int // on the way, until the destination has taken them
	closed bool
}

func newQueue(window int) *queue {
	q := &queue{window: window}
	q.change.L = &q.mu
	return q
}

// put waits until the window has room; an empty one always has. It reports false if the
// queue was closed.
func (q *queue) put(c chunk) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && q.bytes > 0 && q.bytes+len(c.data) > q.window {
		q.change.Wait()
	}
	if q.closed {
		return false
	}
	q.chunks, q.bytes = append(q.chunks, c), q.bytes+len(c.data)
	q.change.Broadcast()
	return true
}

// take waits for the next chunk. It reports false if the queue was closed.
func (q *queue) take() (c chunk, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && len(q.chunks) == 0 {
		q.change.Wait()
	}
	if q.closed {
		return c, false
	}
	c, q.chunks = q.chunks[0], q.chunks[1:]
	return c, true
}

// arrived makes room for n bytes.
func (q *queue) arrived(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= n
	q.change.Broadcast()
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.change.Broadcast()
}
