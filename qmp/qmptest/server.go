package qmptest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// Config configures a server. The zero value is a QEMU 10.0.0 that greets.
type Config struct {
	Version  qmp.Version // 10.0.0 if zero
	Greeting string      // sent in place of the usual greeting, as a line
	Silent   bool        // accept connections and send nothing
}

// Server is a scripted QEMU behind a unix socket. Start makes one.
type Server struct {
	cfg      Config
	path     string
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	ended    sync.WaitGroup

	script

	mu      sync.Mutex
	conn    net.Conn // the client being served, nil if there is none
	sending sync.Mutex
}

// Start makes a server that listens on a socket of its own and is stopped
// when the test ends.
func Start(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	cfg.Version = versionOr10(cfg.Version)
	// Not tb.TempDir: a socket's path must fit into 107 bytes.
	dir, err := os.MkdirTemp("", "qmptest")
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, "qmp.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		os.RemoveAll(dir)
		tb.Fatal(err)
	}
	s := &Server{cfg: cfg, path: path, listener: listener}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.Handle("qmp_capabilities", func(context.Context, json.RawMessage) (any, error) { return nil, nil })
	s.ended.Add(1)
	go s.serve()
	tb.Cleanup(func() {
		s.Die()
		s.ended.Wait()
		os.RemoveAll(dir)
	})
	return s
}

// Path returns the socket's path.
func (s *Server) Path() string { return s.path }

// Emit sends an event to the client. data may be nil.
func (s *Server) Emit(name string, data any) error {
	now := time.Now()
	event := map[string]any{
		"event":     name,
		"timestamp": map[string]int64{"seconds": now.Unix(), "microseconds": int64(now.Nanosecond() / 1000)},
	}
	if data != nil {
		event["data"] = data
	}
	line, err := json.Marshal(event)
	if err != nil {
		return err
	}
	return s.SendRaw(append(line, '\r', '\n'))
}

// SendRaw sends bytes to the client as they are.
func (s *Server) SendRaw(b []byte) error {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn == nil {
		return errors.New("qmptest: no client is connected")
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	_, err := conn.Write(b)
	return err
}

// Die ends everything at once, as when QEMU is killed: the client's
// connection ends and the socket no longer listens. A handler may call it.
func (s *Server) Die() {
	// In this order: a client that sees the connection end finds no listener.
	s.listener.Close()
	s.cancel()
	s.mu.Lock()
	if s.conn != nil {
		s.conn.Close()
	}
	s.mu.Unlock()
}

// serve takes one client after the other.
func (s *Server) serve() {
	defer s.ended.Done()
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		if s.adopt(conn) {
			s.converse(conn)
		}
		s.adopt(nil)
		conn.Close()
	}
}

// adopt makes conn the served connection unless the server is dead.
func (s *Server) adopt(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return s.ctx.Err() == nil
}

// converse serves one client until it disconnects.
func (s *Server) converse(conn net.Conn) {
	ctx, cancel := context.WithCancel(s.ctx)
	requests := make(chan request)
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		defer cancel() // a client that has gone interrupts a blocked handler
		readRequests(ctx, conn, requests)
	}()
	if !s.cfg.Silent {
		s.SendRaw([]byte(s.greeting() + "\r\n"))
	}
	for alive := true; alive; {
		select {
		case r := <-requests:
			s.carryOut(ctx, r)
		case <-ctx.Done():
			alive = false
		}
	}
	conn.Close()
	<-reader
}

func (s *Server) greeting() string {
	if s.cfg.Greeting != "" {
		return s.cfg.Greeting
	}
	v := s.cfg.Version
	return fmt.Sprintf(`{"QMP":{"version":{"qemu":{"micro":%d,"minor":%d,"major":%d},"package":%q},"capabilities":["oob"]}}`,
		v.Micro, v.Minor, v.Major, v.Package)
}

type request struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        json.RawMessage `json:"id"`
}

func readRequests(ctx context.Context, conn net.Conn, requests chan<- request) {
	decoder := json.NewDecoder(bufio.NewReader(conn))
	for {
		var r request
		if decoder.Decode(&r) != nil {
			return
		}
		select {
		case requests <- r:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) carryOut(ctx context.Context, r request) {
	value, err := s.call(ctx, Call{Command: r.Execute, Args: r.Arguments, ID: r.ID})
	if errors.Is(err, ErrNoAnswer) {
		return
	}
	line, err := answer(r, value, err)
	if err != nil {
		// The handler's value cannot be encoded: a mistake in the test. Say so
		// where the test will see it.
		line, _ = answer(r, nil, fmt.Errorf("qmptest: encode the answer: %w", err))
	}
	// A client that is gone is noticed by the reader.
	_ = s.SendRaw(append(line, '\r', '\n'))
}

func answer(r request, value any, err error) ([]byte, error) {
	m := map[string]any{"id": r.ID}
	if r.ID == nil {
		delete(m, "id")
	}
	switch {
	case err != nil:
		refused := refusal(r.Execute, err)
		m["error"] = map[string]string{"class": refused.Class, "desc": refused.Desc}
	case value == nil:
		m["return"] = struct{}{}
	default:
		m["return"] = value
	}
	return json.Marshal(m)
}
