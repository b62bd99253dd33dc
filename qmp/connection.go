package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// connection is a Monitor over a socket. Its methods may be called from several
// goroutines. A goroutine of its own reads the socket until Close is called or
// the connection ends.
type connection struct {
	conn    net.Conn
	version Version

	// writing is held by the call that is writing a request. It is a channel
	// and not a mutex so that waiting for it ends with the caller's context.
	writing chan struct{}

	done chan struct{} // closed when the reader has ended

	events Publisher

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan message // calls without an answer yet; each has room for one
	cause   error                   // why the connection ended; the first reason stays
}

func newConnection(conn net.Conn, in *bufio.Reader, version Version) *connection {
	c := &connection{
		conn:    conn,
		version: version,
		writing: make(chan struct{}, 1),
		done:    make(chan struct{}),
		waiting: make(map[uint64]chan message),
	}
	go c.read(in)
	return c
}

// Version returns the version from QEMU's greeting.
func (c *connection) Version() Version { return c.version }

// Subscribe collects events: see [Monitor].
func (c *connection) Subscribe(names ...string) *Subscription { return c.events.Subscribe(names...) }

// Process returns the process that made the socket: see PeerCredOf.
func (c *connection) Process() (Credentials, error) { return PeerCredOf(c.conn) }

func (c *connection) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endedLocked()
}

func (c *connection) endedLocked() error {
	if c.cause == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.cause)
}

// Close ends the connection and waits for its goroutine.
func (c *connection) Close() error {
	c.fail(errLocalClose)
	<-c.done
	return nil
}

// fail ends the connection; the reader notices and cleans up.
func (c *connection) fail(cause error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = cause
	}
	c.mu.Unlock()
	c.conn.Close()
}

// Execute runs a command: see [Monitor].
func (c *connection) Execute(ctx context.Context, command string, args, result any) error {
	m, err := c.call(ctx, command, args)
	if err != nil {
		return fmt.Errorf("qmp: %s: %w", command, err)
	}
	if m.Err != nil {
		return &Error{Command: command, Class: m.Err.Class, Desc: m.Err.Desc}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qmp: %s: unexpected answer %q: %w", command, printable(string(m.Return)), err)
	}
	return nil
}

// call sends one request and waits for its answer until ctx ends.
func (c *connection) call(ctx context.Context, command string, args any) (message, error) {
	id, answer, err := c.register()
	if err != nil {
		return message{}, err
	}
	defer c.forget(id)
	if err := c.send(ctx, request{Execute: command, Arguments: args, ID: id}); err != nil {
		return message{}, err
	}
	return c.await(ctx, answer)
}

// register reserves a request id and the place where its answer will arrive.
func (c *connection) register() (uint64, <-chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.endedLocked(); err != nil {
		return 0, nil, err
	}
	c.lastID++
	answer := make(chan message, 1)
	c.waiting[c.lastID] = answer
	return c.lastID, answer, nil
}

func (c *connection) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// send writes one request. A request that was cut short would be glued to
// the next one, so then the connection is ended.
func (c *connection) send(ctx context.Context, r request) error {
	var line bytes.Buffer
	if err := json.NewEncoder(&line).Encode(r); err != nil {
		return fmt.Errorf("encode the arguments: %w", err)
	}
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait to send: %w", ctx.Err())
	case <-c.done:
		return c.ended()
	}
	defer func() { <-c.writing }()

	n := 0
	err := interruptible(ctx, c.conn.SetWriteDeadline, func() (err error) {
		n, err = c.conn.Write(line.Bytes())
		return err
	})
	if n == line.Len() {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
		if n == 0 {
			return fmt.Errorf("send: %w", err)
		}
	}
	c.fail(fmt.Errorf("send %s: %w", r.Execute, err))
	return c.ended()
}

// await waits for the answer to a request that was sent.
func (c *connection) await(ctx context.Context, answer <-chan message) (message, error) {
	select {
	case m := <-answer:
		return m, nil
	case <-ctx.Done():
		return message{}, fmt.Errorf("no answer from QEMU: %w", ctx.Err())
	case <-c.done:
	}
	// QEMU answers "quit" and is gone; the answer counts more than the end.
	select {
	case m := <-answer:
		return m, nil
	default:
		return message{}, c.ended()
	}
}

// read is the connection's goroutine: it hands out what arrives, never waiting
// for a receiver, until the connection ends.
func (c *connection) read(in *bufio.Reader) {
	defer close(c.done)
	err := c.dispatchAll(in)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("QEMU ended the connection (it may have exited): %w", err)
	}
	c.fail(err)
	c.events.Close()
}

func (c *connection) dispatchAll(in *bufio.Reader) error {
	for {
		line, err := readLine(in, MaxMessage)
		if err != nil {
			return err
		}
		m, err := parseMessage(line)
		if err != nil {
			return err
		}
		if err := c.dispatch(m); err != nil {
			return err
		}
	}
}

func (c *connection) dispatch(m message) error {
	if m.Greeting != nil {
		return fmt.Errorf("%w: a second greeting", ErrProtocol)
	}
	if m.Event != "" {
		c.events.Publish(Event{Name: m.Event, Data: m.Data, Time: m.Timestamp.time()})
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, err := m.requestID()
	if err != nil {
		return err
	}
	if id == 0 || id > c.lastID {
		return fmt.Errorf("%w: answer with id %d, which was never sent", ErrProtocol, id)
	}
	// No waiter means that the caller gave up on this call.
	if answer, ok := c.waiting[id]; ok {
		delete(c.waiting, id)
		answer <- m
	}
	return nil
}
