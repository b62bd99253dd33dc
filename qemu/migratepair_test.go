package qemu_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// machinePair is a source and a destination in memory. The source sends a few bytes on each
// connection, and completes when the destination has answered on the first. Both record
// where the machine runs: a machine that runs twice fails the test.
type machinePair struct {
	t    *testing.T
	src  *pairSide
	dst  *pairSide
	over context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	mu sync.Mutex
}

// pairSide is a QEMU of a machinePair.
type pairSide struct {
	*qmptest.Memory
	pair      *machinePair
	status    string
	migration string
	caps      map[string]bool
	params    map[string]any
	stopped   bool // stop was called before the migration
	conns     []net.Conn
	cont      error // answer of cont, nil for success
	loads     error // why the destination fails to load
	uuid      string
	holdRound bool // the source sends no more than the first bytes
}

func newMachinePair(t *testing.T) *machinePair {
	p := &machinePair{t: t}
	p.over, p.end = context.WithCancel(context.Background())
	p.src, p.dst = p.side(qmp.StateRunning), p.side(qmp.StateInmigrate)
	p.src.Handle("migrate", func(_ context.Context, args json.RawMessage) (any, error) {
		p.work.Go(func() { p.src.send(uriOf(args)) })
		return nil, nil
	})
	p.dst.Handle("migrate-incoming", func(_ context.Context, args json.RawMessage) (any, error) {
		ln, err := net.Listen("unix", uriOf(args))
		if err != nil {
			return nil, err
		}
		p.dst.set(func() { p.dst.migration = qmp.MigrationSetup })
		p.work.Go(func() { p.dst.load(ln) })
		return nil, nil
	})
	t.Cleanup(func() {
		p.end()
		for _, side := range []*pairSide{p.src, p.dst} {
			side.set(func() {
				for _, c := range side.conns {
					c.Close()
				}
			})
		}
		p.work.Wait()
	})
	return p
}

func uriOf(args json.RawMessage) string {
	var a struct {
		URI string `json:"uri"`
	}
	json.Unmarshal(args, &a)
	return strings.TrimPrefix(a.URI, "unix:")
}

func (s *pairSide) set(change func()) {
	s.pair.mu.Lock()
	defer s.pair.mu.Unlock()
	change()
	if s.pair.src != nil && s.pair.dst != nil && s.pair.src.status == qmp.StateRunning && s.pair.dst.status == qmp.StateRunning {
		s.pair.t.Error("the machine runs at both sides")
	}
}

// get returns the run state and the migration's.
func (s *pairSide) get() (status, migration string) {
	s.pair.mu.Lock()
	defer s.pair.mu.Unlock()
	return s.status, s.migration
}

func (p *machinePair) side(status string) *pairSide {
	s := &pairSide{
		Memory: qmptest.NewMemory(qmp.Version{Major: 10}), pair: p, status: status, uuid: "00000000-0000-0000-0000-000000000000",
		caps:   map[string]bool{"multifd": false, "events": false, "return-path": false, "late-block-activate": false, "pause-before-switchover": false, "auto-converge": false},
		params: map[string]any{"multifd-channels": 2, "multifd-compression": "none", "max-bandwidth": 1 << 27, "downtime-limit": 300, "zero-page-detection": "multifd"},
	}
	answer := func(command string, f func() any) {
		s.Handle(command, func(context.Context, json.RawMessage) (any, error) {
			var value any
			s.set(func() { value = f() })
			return value, nil
		})
	}
	answer("query-status", func() any { return map[string]any{"status": s.status} })
	answer("query-migrate", func() any {
		return map[string]any{"status": s.migration, "ram": map[string]any{"dirty-sync-count": 2, "total": 1 << 20, "transferred": 1 << 19, "page-size": 4096}}
	})
	answer("query-uuid", func() any { return map[string]any{"UUID": s.uuid} })
	answer("query-yank", func() any { return []any{} })
	answer("query-kvm", func() any { return map[string]any{"enabled": true} })
	answer("query-migrate-parameters", func() any { return s.params })
	answer("query-migrate-capabilities", func() any {
		list := []any{}
		for name, on := range s.caps {
			list = append(list, map[string]any{"capability": name, "state": on})
		}
		return list
	})
	s.Handle("migrate-set-capabilities", func(_ context.Context, args json.RawMessage) (any, error) {
		var a struct {
			Capabilities []struct {
				Capability string
				State      bool
			}
		}
		err := json.Unmarshal(args, &a)
		s.set(func() {
			for _, c := range a.Capabilities {
				s.caps[c.Capability] = c.State
			}
		})
		return nil, err
	})
	s.Handle("migrate-set-parameters", func(_ context.Context, args json.RawMessage) (any, error) {
		var err error
		s.set(func() { err = json.Unmarshal(args, &s.params) })
		return nil, err
	})
	answer("stop", func() any { s.stopped = true; return nil })
	s.Handle("cont", func(context.Context, json.RawMessage) (any, error) {
		var err error
		s.set(func() {
			if err = s.cont; err == nil {
				s.status = qmp.StateRunning
			}
		})
		return nil, err
	})
	answer("migrate_cancel", func() any {
		if s.migration == qmp.MigrationActive {
			s.migration = qmp.MigrationCancelled
			s.resume()
		}
		return nil
	})
	return s
}

// resume brings a source back whose migration failed. The pair's lock is held.
func (s *pairSide) resume() {
	if s.status == "finish-migrate" {
		s.status = qmp.StateRunning
	}
	for _, c := range s.conns {
		c.Close()
	}
}

// fail ends the source's migration.
func (s *pairSide) fail() {
	s.set(func() {
		if s.migration == qmp.MigrationActive {
			s.migration = qmp.MigrationFailed
			s.resume()
		}
	})
}

func (s *pairSide) send(path string) {
	s.set(func() { s.migration = qmp.MigrationActive })
	for i := range 3 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			s.fail()
			return
		}
		s.set(func() { s.conns = append(s.conns, conn) })
		if i == 0 {
			conn.Write([]byte("main"))
		} else {
			conn.Write([]byte("page"))
			conn.(*net.UnixConn).CloseWrite()
		}
	}
	if s.holdRound {
		<-s.pair.over.Done()
		return
	}
	s.set(func() { s.status = "finish-migrate" })
	s.conns[0].(*net.UnixConn).CloseWrite()
	answer, err := io.ReadAll(s.conns[0])
	if err != nil || string(answer) != "loaded" {
		s.fail()
		return
	}
	s.set(func() {
		if s.migration == qmp.MigrationActive {
			s.migration, s.status = qmp.MigrationCompleted, qmp.StatePostmigrate
		}
	})
	s.Emit("MIGRATION", map[string]string{"status": "completed"})
}

func (s *pairSide) load(ln net.Listener) {
	defer context.AfterFunc(s.pair.over, func() { ln.Close() })()
	defer ln.Close()
	ok := s.loads == nil
	for range 3 {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		s.set(func() { s.conns = append(s.conns, conn) })
		defer conn.Close()
	}
	var first net.Conn
	for _, conn := range s.conns {
		got, err := io.ReadAll(conn)
		ok = ok && err == nil && len(got) == 4
		if string(got) == "main" {
			first = conn
		}
	}
	s.set(func() {
		s.migration = qmp.MigrationFailed
		if ok {
			s.migration, s.status = qmp.MigrationCompleted, qmp.StatePaused
		}
	})
	if ok && first != nil {
		first.Write([]byte("loaded"))
	}
}

// errCut is why a test's connection ends.
var errCut = errors.New("the test cuts the connection")

// cutter ends all connections of a link at a message of the control connection.
type cutter struct {
	// at is the type of the message, sent by the source or received by it. delivered
	// says whether it still arrives.
	at        string
	delivered bool
	// reconnect says whether later connections are possible.
	reconnect bool

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (c *cutter) dialer(address string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.cut && !c.reconnect {
			return nil, errCut
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		if !c.cut {
			c.conns = append(c.conns, conn)
		}
		return &cutConn{TCPConn: conn.(*net.TCPConn), c: c}, nil
	}
}

func (c *cutter) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return
	}
	c.cut = true
	for _, conn := range c.conns {
		conn.Close()
	}
}

func (c *cutter) hits(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.cut && c.at != "" && strings.Contains(string(b), `"type":"`+c.at+`"`)
}

type cutConn struct {
	*net.TCPConn
	c *cutter
}

func (c *cutConn) Write(b []byte) (int, error) {
	if !c.c.hits(b) {
		return c.TCPConn.Write(b)
	}
	if c.c.delivered {
		c.TCPConn.Write(b)
	}
	c.c.end()
	return 0, errCut
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if err == nil && c.c.hits(b[:n]) {
		c.c.end()
		if !c.c.delivered {
			return 0, errCut
		}
	}
	return n, err
}
