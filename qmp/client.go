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
	"sync/atomic"
	"time"
)

// Client is a connection to one QEMU monitor. Its methods may be called from
// several goroutines. A goroutine of its own reads the socket until Close is
// called or the connection ends.
type Client struct {
	conn    net.Conn
	version Version

	// writing is held by the call that is writing a request. It is a channel
	// and not a mutex so that waiting for it ends with the caller's context.
	writing chan struct{}

	done chan struct{} // closed when the reader has ended

	answerTimeout atomic.Int64 // see SetAnswerTimeout

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan message // calls without an answer yet; each has room for one
	subs    map[*Subscription]struct{}
	cause   error // why the connection ended; the first reason stays
}

func newClient(conn net.Conn, in *bufio.Reader, version Version) *Client {
	c := &Client{
		conn:    conn,
		version: version,
		writing: make(chan struct{}, 1),
		done:    make(chan struct{}),
		waiting: make(map[uint64]chan message),
		subs:    make(map[*Subscription]struct{}),
	}
	go c.read(in)
	return c
}

// Version gives what QEMU said of itself in its greeting.
func (c *Client) Version() Version { return c.version }

// Done is closed when the connection has ended, by whichever side. It is a
// way to learn that QEMU died while no call is under way.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err gives nil while the connection stands, and afterwards an error that
// wraps [ErrClosed] and the cause.
func (c *Client) Err() error {
	if err := c.ended(); err != nil {
		return fmt.Errorf("qmp: %w", err)
	}
	return nil
}

func (c *Client) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endedLocked()
}

func (c *Client) endedLocked() error {
	if c.cause == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.cause)
}

// Close ends the connection and waits for the client's goroutine. Calls that
// still wait return an error that wraps [ErrClosed]. The virtual machine is
// not touched. Closing again does nothing.
func (c *Client) Close() error {
	c.fail(errLocalClose)
	<-c.done
	return nil
}

// fail ends the connection; the reader notices and cleans up.
func (c *Client) fail(cause error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = cause
	}
	c.mu.Unlock()
	c.conn.Close()
}

// Execute runs command with args (nil for none; otherwise something that
// encodes as a JSON object) and decodes QEMU's answer into the value that
// result points to (nil to drop it). It waits for the answer until ctx ends;
// QEMU may carry the command out even then.
//
// A refusal by QEMU is an [*Error]. An error that wraps [ErrClosed] means
// that the connection is gone, and then it is unknown whether the command was
// carried out.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
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

// SetAnswerTimeout bounds the wait for the answer to each command from now on, besides
// the context: a QEMU that is frozen, or whose main loop hangs, does not answer. The
// error then wraps [ErrSilent]. 0, as at the beginning, does not bound it.
func (c *Client) SetAnswerTimeout(d time.Duration) { c.answerTimeout.Store(int64(d)) }

// call sends one request and waits for its answer, for the time that is set.
func (c *Client) call(ctx context.Context, command string, args any) (message, error) {
	d := time.Duration(c.answerTimeout.Load())
	if d <= 0 {
		return c.callUntil(ctx, command, args)
	}
	short, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	m, err := c.callUntil(short, command, args)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w for %v (is its process frozen?): %w", ErrSilent, d, err)
	}
	return m, err
}

// callUntil sends one request and waits for its answer until ctx ends.
func (c *Client) callUntil(ctx context.Context, command string, args any) (message, error) {
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
func (c *Client) register() (uint64, <-chan message, error) {
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

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// send writes one request. A request that was cut short would be glued to
// the next one, so then the connection is ended.
func (c *Client) send(ctx context.Context, r request) error {
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
func (c *Client) await(ctx context.Context, answer <-chan message) (message, error) {
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

// read is the client's goroutine: it hands out what arrives, never waiting
// for a receiver, until the connection ends.
func (c *Client) read(in *bufio.Reader) {
	defer close(c.done)
	err := c.dispatchAll(in)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("QEMU ended the connection (it may have exited): %w", err)
	}
	c.fail(err)

	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subs {
		close(s.events)
	}
	c.subs = nil
}

func (c *Client) dispatchAll(in *bufio.Reader) error {
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

func (c *Client) dispatch(m message) error {
	if m.Greeting != nil {
		return fmt.Errorf("%w: a second greeting", ErrProtocol)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Event != "" {
		e := Event{Name: m.Event, Data: m.Data, Time: m.Timestamp.time()}
		for s := range c.subs {
			s.deliver(e)
		}
		return nil
	}
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
