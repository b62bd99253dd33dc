package live_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// The handover codes on the wire.
const (
	codeRun  = 0x56464832
	codeGone = 0x56464833
)

// link is a connection of the source that can break.
type link struct {
	net.Conn
	cut  func(l *link, written []byte) (pass bool)
	deaf atomic.Bool // what comes from there is lost
	dead atomic.Bool // not even the end of the connection comes through
}

func (l *link) Write(p []byte) (int, error) {
	if l.cut != nil && !l.cut(l, p) {
		return 0, unix.EPIPE
	}
	return l.Conn.Write(p)
}

func (l *link) Close() error {
	if l.dead.Load() {
		// The reader on this side ends all the same.
		return l.Conn.SetReadDeadline(time.Unix(1, 0))
	}
	return l.Conn.Close()
}

func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if l.deaf.Load() {
		l.Conn.Close()
		return 0, unix.ECONNRESET
	}
	return n, err
}

// isCode reports whether the written bytes are that handover code.
func isCode(p []byte, code uint32) bool {
	return bytes.Equal(p, append([]byte{8, 0, 2, 0, 4}, binary.BigEndian.AppendUint32(nil, code)...))
}

// cutting dials with a cut of the first connection, the main channel. refuse
// has later dials fail with that error.
func (p *pair) cutting(cut func(*link, []byte) bool, refuse func() error) transport.Dialer {
	var dials atomic.Int32
	return func(ctx context.Context) (net.Conn, error) {
		n := dials.Add(1)
		if n > int32(p.cfg.Channels)+1 && refuse != nil {
			if err := refuse(); err != nil {
				return nil, err
			}
		}
		conn, err := p.dial(ctx)
		if err != nil || n > 1 {
			return conn, err
		}
		return &link{Conn: conn, cut: cut}, nil
	}
}

func TestMigrate_LinkBreaksDuringHandover(t *testing.T) {
	t.Parallel()
	loseRun := func(l *link, p []byte) bool {
		if isCode(p, codeRun) {
			l.Conn.Close()
			return false
		}
		return true
	}
	loseAll := func(l *link, p []byte) bool {
		if isCode(p, codeRun) {
			l.dead.Store(true)
			return false
		}
		return true
	}
	loseAnswer := func(l *link, p []byte) bool {
		if isCode(p, codeRun) {
			l.deaf.Store(true)
		}
		return true
	}
	loseGone := func(l *link, p []byte) bool {
		if isCode(p, codeGone) {
			l.Conn.Close()
			return false
		}
		return true
	}
	down := func(times int32) func() error {
		var n atomic.Int32
		return func() error {
			if n.Add(1) <= times {
				return unix.EHOSTUNREACH
			}
			return nil
		}
	}
	for name, tt := range map[string]struct {
		cut    func(*link, []byte) bool
		refuse func() error
		moves  bool
		asked  bool // the destination reports that it does not run
	}{
		"run is lost":                              {loseRun, nil, false, false},
		"run is lost, the net for longer":          {loseRun, down(3), false, false},
		"the link is dead, and the code lost":      {loseAll, nil, false, true},
		"the link is dead, and the net for longer": {loseAll, down(3), false, true},
		"the answer is lost":                       {loseAnswer, nil, true, true},
		"the answer is lost, the net for longer":   {loseAnswer, down(3), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, "tcp", 2, multifd.None)
			out, source, destination := p.run(t.Context(), p.cutting(tt.cut, tt.refuse))
			if tt.moves {
				if source != nil || destination != nil {
					t.Fatalf("source: %v; destination: %v", source, destination)
				}
				p.checkMoved(out)
				return
			}
			if source == nil || tt.asked && !errors.Is(source, vmstate.ErrRefused) || !errors.Is(destination, live.ErrSourceGone) {
				t.Errorf("source: %v; destination: %v", source, destination)
			}
			if p.resumed.Load() != 1 {
				t.Errorf("resumed %d times", p.resumed.Load())
			}
			p.checkStayed()
		})
	}
	t.Run("gone is lost", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "tcp", 1, multifd.None)
		p.recv.Answer = 300 * time.Millisecond
		out, source, destination := p.run(t.Context(), p.cutting(loseGone, nil))
		if source != nil || destination != nil {
			t.Fatalf("source: %v; destination: %v", source, destination)
		}
		p.checkMoved(out)
	})
	t.Run("and the destination is dead", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "tcp", 1, multifd.None)
		_, source, _ := p.run(t.Context(), p.cutting(loseRun, func() error { return unix.ECONNREFUSED }))
		if source == nil || errors.Is(source, live.ErrUndecided) {
			t.Errorf("source: %v", source)
		}
		p.checkStayed()
	})
	t.Run("and a refused connection proves nothing", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "tcp", 1, multifd.None)
		p.cfg.Inquiry = 300 * time.Millisecond
		p.cfg.ProvesDeath = func(error) bool { return false }
		_, source, _ := p.run(t.Context(), p.cutting(loseRun, func() error { return unix.ECONNREFUSED }))
		if !errors.Is(source, live.ErrUndecided) || p.resumed.Load() != 0 {
			t.Errorf("source: %v; resumed %d times", source, p.resumed.Load())
		}
	})
	t.Run("and nobody can be asked", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "tcp", 1, multifd.None)
		p.cfg.Inquiry = 300 * time.Millisecond
		p.recv.Answer = 100 * time.Millisecond
		_, source, destination := p.run(t.Context(), p.cutting(loseAnswer, func() error { return unix.EHOSTUNREACH }))
		if !errors.Is(source, live.ErrUndecided) || destination != nil {
			t.Errorf("source: %v; destination: %v", source, destination)
		}
		if p.started.Load() != 1 || p.resumed.Load() != 0 {
			t.Errorf("started %d times, resumed %d times: both sides run, or none", p.started.Load(), p.resumed.Load())
		}
	})
	t.Run("the end of the context is not obeyed any more", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "tcp", 1, multifd.None)
		ctx, cancel := context.WithCancel(t.Context())
		p.receive(t.Context())
		out, source := live.Migrate(ctx, p.cutting(func(l *link, b []byte) bool {
			if isCode(b, codeRun) {
				cancel()
			}
			return true
		}, nil), p.cfg)
		if destination := <-p.received; source != nil || destination != nil {
			t.Fatal(source, destination)
		}
		p.checkMoved(out)
	})
}

func TestReceive_LostSourceStartsOnlyIfKnownDead(t *testing.T) {
	t.Parallel()
	for _, dead := range []bool{false, true} {
		p := newPair(t, "tcp", 1, multifd.None)
		asked := 0
		p.recv.SourceLost = func(error) bool { asked++; return dead }
		p.recv.Answer = 100 * time.Millisecond
		// The source is killed when the destination reports that it is prepared.
		p.receive(t.Context())
		died := errors.New("killed")
		func() {
			defer func() { recover() }()
			live.Migrate(t.Context(), p.cutting(func(l *link, b []byte) bool {
				if isCode(b, codeRun) {
					l.Conn.(*net.TCPConn).CloseWrite()
					panic(died) // nothing of it runs on
				}
				return true
			}, nil), p.cfg)
		}()
		destination := <-p.received
		if asked != 1 {
			t.Errorf("asked %d times whether the source is dead", asked)
		}
		if dead && (destination != nil || p.started.Load() != 1) {
			t.Errorf("known to be dead: %v, started %d times", destination, p.started.Load())
		}
		if !dead && (!errors.Is(destination, live.ErrSourceGone) || p.started.Load() != 0) {
			t.Errorf("not known to be dead: %v, started %d times", destination, p.started.Load())
		}
	}
}

func TestInquiry_RefusesOtherMachines(t *testing.T) {
	p := newPair(t, "tcp", 1, multifd.None)
	hold, held := make(chan struct{}), make(chan struct{})
	p.receive(t.Context())
	go func() {
		<-held
		// Everybody who can connect, but does not know the machine's uuid.
		for _, hello := range [][]byte{
			nil, []byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0xff}, 4096),
			append((&vmstate.Configuration{Machine: "vmferry", HasUUID: true, UUID: [16]byte{1}}).Head(), 8, 0, 2, 0, 4, 0x56, 0x46, 0x48, 0x35),
		} {
			if conn, err := p.dial(t.Context()); err == nil {
				conn.Write(hello)
				conn.Close()
			}
		}
		time.Sleep(50 * time.Millisecond)
		close(hold)
	}()
	out, source := live.Migrate(t.Context(), p.cutting(func(l *link, b []byte) bool {
		if isCode(b, codeRun) {
			close(held)
			<-hold
		}
		return true
	}, nil), p.cfg)
	if destination := <-p.received; source != nil || destination != nil {
		t.Fatal(source, destination)
	}
	p.checkMoved(out)
}

func TestReceive_NeedsAListenerWithDeadlines(t *testing.T) {
	p := newPair(t, "tcp", 1, multifd.None)
	closed := &plainListener{p.ln}
	if _, err := live.Receive(t.Context(), closed, p.recv); err == nil {
		t.Error("a listener without SetDeadline was taken")
	}
}

type plainListener struct{ net.Listener }
