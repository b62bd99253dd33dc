package transcode

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// Carry carries one connection of the source's QEMU to the destination's. The packets of
// a multifd channel are transcoded; other connections pass as bytes. It returns when both
// directions have ended, and closes both connections. A malformed packet ends the
// connection with a multifd.ChannelError.
func Carry(ctx context.Context, source, destination net.Conn, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		transport.Reset(source)
		transport.Reset(destination)
		return err
	}
	return carry(ctx, source, destination, cfg)
}

func carry(ctx context.Context, source, destination net.Conn, cfg Config) error {
	p := &pair{source: source, destination: destination}
	stop := context.AfterFunc(ctx, func() { p.fail(context.Cause(ctx)) })
	forward, backward := make(chan struct{}), make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		err := forwardChannel(source, destination, cfg)
		close(forward)
		p.ended(err, backward)
	})
	both.Go(func() {
		err := copyToEnd(source, destination)
		close(backward)
		p.ended(err, forward)
	})
	both.Wait()
	stop()
	return p.close()
}

// pair is the connections to the two QEMUs.
type pair struct {
	source, destination net.Conn

	once sync.Once
	err  error // the first failure
}

// drainTime is how long the other direction may go on after a direction has failed. A
// QEMU that refuses a migration says why over the return path and then closes the
// connection, so that a write to it can fail before its words are read.
const drainTime = 500 * time.Millisecond

// ended ends the connection if a direction has failed.
func (p *pair) ended(err error, other <-chan struct{}) {
	if err == nil {
		return
	}
	if !errors.As(err, new(*multifd.ChannelError)) {
		timer := time.NewTimer(drainTime)
		defer timer.Stop()
		select {
		case <-other:
		case <-timer.C:
		}
	}
	p.fail(err)
}

// fail ends both connections. Only the first failure counts, because it causes the
// others.
func (p *pair) fail(err error) {
	p.once.Do(func() {
		p.err = err
		transport.Reset(p.source)
		transport.Reset(p.destination)
	})
}

// close closes the connections and returns the failure.
func (p *pair) close() error {
	p.once.Do(func() {
		p.source.Close()
		p.destination.Close()
	})
	return p.err
}

// copyToEnd copies from one QEMU to the other, up to the half-close.
func copyToEnd(to, from net.Conn) error {
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return transport.CloseWrite(to)
}

// forwardChannel carries what the source sends.
func forwardChannel(source, destination net.Conn, cfg Config) error {
	handshake, err := forwardHandshake(source, destination)
	if err != nil {
		return err
	}
	if handshake == nil {
		return copyToEnd(destination, source)
	}
	c := newChannel(source, destination, int(handshake[idAt]), cfg)
	defer c.close()
	for {
		if err := c.packet(); err == io.EOF {
			return transport.CloseWrite(destination)
		} else if err != nil {
			return err
		}
	}
}

// idAt is the place of the channel's id in a handshake.
const idAt = 24

// forwardHandshake passes the first bytes of a connection on, each as it comes: a
// connection may be silent for long, or send one byte and wait. It returns the handshake
// of a multifd channel, or nil if the connection is another one.
func forwardHandshake(source, destination net.Conn) ([]byte, error) {
	buf := make([]byte, multifd.HandshakeLen)
	for have := 0; have < len(buf); {
		n, err := source.Read(buf[have:])
		if n > 0 {
			if _, err := destination.Write(buf[have : have+n]); err != nil {
				return nil, err
			}
		}
		have += n
		if err != nil && err != io.EOF {
			return nil, err
		}
		if err == io.EOF || !multifd.BeginsChannel(buf[:have]) {
			return nil, nil // after io.EOF the next read returns it again
		}
	}
	return buf, nil
}
