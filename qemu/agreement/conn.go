package agreement

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vmferry/vmferry/transport"
)

// ErrSilent is wrapped when the other vmferry sends nothing for the time that Conn allows.
var ErrSilent = errors.New("the other vmferry does not answer")

// DefaultSilence is how long the other side may send nothing.
const DefaultSilence = 30 * time.Second

// Conn is a control connection. While it is open, a goroutine of its own sends
// messages that say that this side is alive. Send may be called from several goroutines,
// Receive from one at a time.
type Conn struct {
	conn    net.Conn
	silence time.Duration
	writing sync.Mutex
	stop    chan struct{}
	once    sync.Once
	beating sync.WaitGroup
}

// OpenControl begins a conversation on a new connection. silence is how long the other
// side may send nothing; 0 is DefaultSilence. Conn owns the connection, also after an
// error.
func OpenControl(conn net.Conn, silence time.Duration) (*Conn, error) {
	if err := writePreamble(conn, kindControl, Token{}); err != nil {
		conn.Close()
		return nil, err
	}
	return newConn(conn, silence), nil
}

func newConn(conn net.Conn, silence time.Duration) *Conn {
	if silence <= 0 {
		silence = DefaultSilence
	}
	c := &Conn{conn: conn, silence: silence, stop: make(chan struct{})}
	c.beating.Go(c.beat)
	return c
}

// beat says that this side is alive, four times in the time that the other side allows.
func (c *Conn) beat() {
	t := time.NewTicker(c.silence / 4)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if c.Send(Message{Type: typeAlive}) != nil {
				return // Receive sees it too
			}
		case <-c.stop:
			return
		}
	}
}

// RemoteAddr names the other side.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Send sends a message. It waits for at most the time of silence. After an error it is
// not known whether the message arrives.
func (c *Conn) Send(m Message) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(c.silence))
	if err := writeMessage(c.conn, m); err != nil {
		return fmt.Errorf("sending %q to the other vmferry: %w", m.Type, err)
	}
	return nil
}

// Receive returns the next message. It fails when ctx ends, and when the other side has
// sent nothing for the time of silence. After an error the connection is of no more use.
func (c *Conn) Receive(ctx context.Context) (Message, error) {
	defer context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		c.conn.SetReadDeadline(time.Now().Add(c.silence))
		if ctx.Err() != nil {
			return Message{}, context.Cause(ctx)
		}
		m, err := readMessage(c.conn)
		switch {
		case err != nil && ctx.Err() != nil:
			return Message{}, context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return Message{}, fmt.Errorf("%w for %v", ErrSilent, c.silence)
		case err != nil:
			return Message{}, fmt.Errorf("connection to the other vmferry: %w", transport.AdviseAlert(err))
		case m.Type != typeAlive:
			return m, nil
		}
	}
}

// Close ends the connection and waits for its goroutine.
func (c *Conn) Close() error {
	err := error(nil)
	c.once.Do(func() {
		close(c.stop)
		err = c.conn.Close()
	})
	c.beating.Wait()
	return err
}
