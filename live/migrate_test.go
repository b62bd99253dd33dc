package live_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/certtest"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/internal/soak"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// pair is a machine that runs, and the destination that it goes to.
type pair struct {
	t        testing.TB
	source   *machine.Machine
	cfg      live.Config
	recv     live.ReceiveConfig
	address  transport.Address
	ln       net.Listener
	resumed  atomic.Int32
	started  atomic.Int32
	arrived  *machine.Machine // once started
	received chan error
	reported []live.Round
	facts    machine.Facts // at the source, at the switch
	there    machine.Facts // at the destination, before it ran
}

const (
	testMemory = 16 << 20
	testRate   = 3000 // and no more than roundPages in a round
)

func newPair(t testing.TB, network string, channels int, method multifd.Method) *pair {
	t.Helper()
	return newPairOf(t, machine.Config{Memory: testMemory, Writers: 2, Rate: testRate, Seed: 7}, network, channels, method)
}

func newPairOf(t testing.TB, config machine.Config, network string, channels int, method multifd.Method) *pair {
	t.Helper()
	source, err := machine.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	p := &pair{t: t, source: source, received: make(chan error, 1)}
	p.address = transport.Address{Network: network, Addr: "127.0.0.1:0"}
	if network == "unix" {
		p.address.Addr = filepath.Join(t.TempDir(), "s")
	}
	if p.ln, err = p.address.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.ln.Close() })
	p.address.Addr = p.ln.Addr().String()
	log, err := source.DirtyLog()
	if err != nil {
		t.Fatal(err)
	}
	p.cfg = live.Config{
		Wire: migration.Wire{Channels: channels, Method: method, LinkTimeout: hang}, Memory: source.Memory(), Dirty: log,
		Pause: func(context.Context) ([]byte, error) {
			source.Pause()
			p.facts = source.Facts()
			return source.Save()
		},
		Resume: func() error {
			p.resumed.Add(1)
			return source.Start()
		},
		Throttle: source.Throttle,
		// A slow machine moves all the same: tests that are about the downtime
		// set their own.
		Downtime: time.Minute, StandStill: hang,
	}
	p.pace(func() int { return roundPages }, false)
	sink := new(guestmem.Memory)
	t.Cleanup(func() {
		if p.arrived != nil {
			p.arrived.Pause()
		}
		sink.Close()
	})
	p.recv = live.ReceiveConfig{ReceiveConfig: migration.ReceiveConfig{
		Wire: migration.Wire{Channels: channels, Method: method}, Sink: sink,
		ConnectTimeout: hang,
		Commit: func(r *migration.Received) error {
			state, err := r.OwnerState()
			if err != nil {
				return err
			}
			there, err := machine.NewOn(sink, config)
			if err != nil {
				return err
			}
			if err := there.Load(state); err != nil {
				return err
			}
			p.there, p.arrived = there.Facts(), there
			return there.Check()
		}},
		Start: func(*migration.Received) error {
			p.started.Add(1)
			return p.arrived.Start()
		},
	}
	if err := source.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// dial connects to the destination.
func (p *pair) dial(ctx context.Context) (net.Conn, error) { return p.address.Dial(ctx, nil) }

// receive starts the destination.
func (p *pair) receive(ctx context.Context) {
	go func() {
		var err error
		if p.recv.Start == nil { // it stores the machine
			_, err = migration.Receive(ctx, p.ln, p.recv.ReceiveConfig)
		} else {
			_, err = live.Receive(ctx, p.ln, p.recv)
		}
		p.received <- err
	}()
}

// run does the migration and returns how it went at both ends.
func (p *pair) run(ctx context.Context, dial transport.Dialer) (out *live.Outcome, source, destination error) {
	p.receive(ctx)
	out, source = live.Migrate(ctx, dial, p.cfg)
	select {
	case destination = <-p.received:
	case <-time.After(hang):
		p.t.Fatalf("the destination does not end; the source ended with %v", source)
	}
	return out, source, destination
}

// checkMoved checks that the machine runs there, and lost nothing.
func (p *pair) checkMoved(out *live.Outcome) {
	p.t.Helper()
	if p.started.Load() != 1 || p.resumed.Load() != 0 {
		p.t.Fatalf("started %d times at the destination, resumed %d times at the source", p.started.Load(), p.resumed.Load())
	}
	if p.facts.Memory != p.there.Memory || p.facts.Ledger != p.there.Ledger {
		p.t.Errorf("at the switch the source had %+v, the destination %+v", p.facts, p.there)
	}
	if err := p.arrived.AwaitMore(p.facts.Counters, hang); err != nil {
		p.t.Errorf("at the destination: %v", err)
	}
	p.arrived.Pause()
	for i, began := range p.arrived.Began() {
		if began != p.facts.Counters[i]+1 {
			p.t.Errorf("writer %d ended with %d and went on with %d", i, p.facts.Counters[i], began)
		}
	}
	if err := p.arrived.Check(); err != nil {
		p.t.Error(err)
	}
	if sw := out.Switch; sw.Pause <= 0 || sw.Collect <= 0 || sw.Send <= 0 || sw.Prepare <= 0 || sw.Start <= 0 ||
		sw.Pause+sw.Collect+sw.Send+sw.Prepare+sw.Start > out.Downtime {
		p.t.Errorf("the downtime of %v is made of %+v", out.Downtime, sw)
	}
	if !out.Verified || out.Downtime <= 0 {
		p.t.Errorf("outcome %+v", out)
	}
}

// checkStayed checks that the machine runs here, unharmed, and only here.
func (p *pair) checkStayed() {
	p.t.Helper()
	if p.started.Load() != 0 {
		p.t.Fatal("the machine was started at the destination")
	}
	if err := p.source.AwaitMore(p.source.Written(), hang); err != nil {
		p.t.Errorf("at the source: %v", err)
	}
	p.source.Pause()
	if err := p.source.Check(); err != nil {
		p.t.Error(err)
	}
}

func TestMigrate_MovesARunningMachine(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		for _, method := range multifd.Methods() {
			for _, channels := range []int{1, 4} {
				if !soak.Long && (network == "unix") != (channels == 4) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%d", network, method.Name(), channels), func(t *testing.T) {
					p := newPair(t, network, channels, method)
					out, source, destination := p.run(t.Context(), p.dial)
					if source != nil || destination != nil {
						t.Fatalf("source: %v; destination: %v", source, destination)
					}
					p.checkMoved(out)
					first, last := out.Rounds[0], out.Rounds[len(out.Rounds)-1]
					if first.Pages() != testMemory/4096 || first.Zero == 0 {
						t.Errorf("the first round had %d pages, %d of them zero", first.Pages(), first.Zero)
					}
					if !last.Last || len(out.Rounds) < 2 {
						t.Errorf("%d rounds, the last: %+v", len(out.Rounds), last)
					}
					if method == multifd.None && out.Compressed != 0 || method != multifd.None && out.Compressed == 0 {
						t.Errorf("%s: %d raw and %d compressed pages", method.Name(), out.Raw, out.Compressed)
					}
				})
			}
		}
	}
}

func TestMigrate_MovesARunningMachineByMarks(t *testing.T) {
	for _, method := range []multifd.Method{multifd.None, multifd.QPL} {
		t.Run(method.Name(), func(t *testing.T) {
			p := newPairOf(t, machine.Config{Memory: testMemory, Writers: 3, Rate: testRate, Seed: 8, Log: machine.Marks}, "tcp", 2, method)
			p.cfg.Dirty = guest.JoinLogs(p.cfg.Dirty) // as a VMM would, with others
			out, source, destination := p.run(t.Context(), p.dial)
			if source != nil || destination != nil {
				t.Fatalf("source: %v; destination: %v", source, destination)
			}
			p.checkMoved(out)
			if out.Zero == 0 || out.Raw+out.Compressed == 0 {
				t.Errorf("%d zero and %d other pages", out.Zero, out.Raw+out.Compressed)
			}
		})
	}
}

func TestMigrate_MovesARunningMachineOverTLS(t *testing.T) {
	ca, err := certtest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(issue func(string) (certtest.Pair, error), name string) []tls.Certificate {
		pair, err := issue(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := pair.TLS()
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{c}
	}
	p := newPair(t, "tcp", 3, multifd.QPL)
	p.recv.TLS = &tls.Config{Certificates: certificate(ca.Issue, "there"), ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	dialAs := func(issue func(string) (certtest.Pair, error)) transport.Dialer {
		shown := &certificate(issue, "here")[0]
		config := &tls.Config{RootCAs: ca.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return shown, nil // also where the other side asks for none like it
		}}
		return func(ctx context.Context) (net.Conn, error) { return p.address.Dial(ctx, config) }
	}
	p.receive(t.Context())
	// The destination refuses a peer with another certificate, and accepts the
	// next source.
	if _, err := live.Migrate(t.Context(), dialAs(certtest.Stranger), p.cfg); err == nil {
		t.Error("the machine of an unknown source was moved")
	}
	if p.started.Load() != 0 {
		t.Fatal("a stranger's machine was started")
	}
	out, err := live.Migrate(t.Context(), dialAs(ca.Issue), p.cfg)
	if err := errors.Join(err, <-p.received); err != nil {
		t.Fatal(err)
	}
	p.checkMoved(out)
}

func TestMigrate_SourceRetriesAfterAbortedConnect(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		for made := range 3 { // of 3 connections
			t.Run(fmt.Sprintf("%s/%d", network, made), func(t *testing.T) {
				p := newPair(t, network, 2, multifd.None)
				p.receive(t.Context())
				p.giveUpConnecting(made)
				out, err := live.Migrate(t.Context(), p.dial, p.cfg)
				if err := errors.Join(err, <-p.received); err != nil {
					t.Fatal(err)
				}
				p.checkMoved(out)
			})
		}
	}
}

// giveUpConnecting migrates until so many connections are made.
func (p *pair) giveUpConnecting(made int) {
	p.t.Helper()
	broken, dialed := errors.New("no more connections"), 0
	_, err := live.Migrate(p.t.Context(), func(ctx context.Context) (net.Conn, error) {
		if dialed++; dialed > made {
			return nil, broken
		}
		return p.dial(ctx)
	}, p.cfg)
	if !errors.Is(err, broken) {
		p.t.Fatalf("error %v", err)
	}
}

// A source without a return path may have sent everything and closed its connections
// before this side reads. It differs from an aborted source by its later connections.
func TestMigrate_SourceRetriesAndAbortsAgain(t *testing.T) {
	for made := range 3 {
		p := newPair(t, "unix", 2, multifd.None)
		p.source.Pause()
		p.giveUpConnecting(made)
		small, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 64 << 10}})
		if err != nil {
			t.Fatal(err)
		}
		mem, err := guestmem.New(small)
		if err != nil {
			t.Fatal(err)
		}
		defer mem.Close()
		mem.Bytes(small.Blocks[0])[5000] = 7
		send, err := migration.Connect(t.Context(), p.dial, migration.SendConfig{
			Wire: migration.Wire{Channels: 2, Method: multifd.None}, Layout: small, Zero: migration.ZeroInPackets,
			Head: (&vmstate.Configuration{Machine: "small", PageBits: 12}).Head(),
		})
		if err != nil {
			t.Fatal(err)
		}
		state, err := vmstate.OwnerState([]byte("the state"), 4096)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(send.Round(t.Context(), mem.All()), send.Finish(t.Context(), state), send.Close()); err != nil {
			t.Fatal(err)
		}
		got := new(guestmem.Memory)
		received, err := migration.Receive(t.Context(), p.ln, migration.ReceiveConfig{Wire: migration.Wire{Channels: 2, Method: multifd.None}, Sink: got, ConnectTimeout: hang})
		if err != nil {
			t.Fatalf("after an attempt of %d connections: %v", made, err)
		}
		defer got.Close()
		if state, err := received.OwnerState(); err != nil || string(state) != "the state" || got.Bytes(got.Layout().Blocks[0])[5000] != 7 {
			t.Errorf("after an attempt of %d connections: state %q, error %v", made, state, err)
		}
	}
}

// slowLog takes its time to stop.
type slowLog struct{ guest.DirtyLog }

func (l slowLog) Stop() error {
	time.Sleep(50 * time.Millisecond)
	return l.DirtyLog.Stop()
}

func TestMigrate_StopLogDelaysNoSide(t *testing.T) {
	p := newPair(t, "tcp", 2, multifd.None)
	p.cfg.Dirty = slowLog{p.cfg.Dirty}
	began := time.Now()
	out, source, destination := p.run(t.Context(), p.dial)
	took := time.Since(began)
	if source != nil || destination != nil {
		t.Fatalf("source: %v; destination: %v", source, destination)
	}
	p.checkMoved(out)
	if out.StopLog < 50*time.Millisecond || out.Total > took-out.StopLog || out.Total < out.Downtime {
		t.Errorf("of %v the migration took %v, %v of downtime, and stopping the log %v", took, out.Total, out.Downtime, out.StopLog)
	}
}

func TestMigrate_HangingDialIsBounded(t *testing.T) {
	p := newPair(t, "tcp", 1, multifd.None)
	p.cfg.LinkTimeout = 50 * time.Millisecond
	hangs := func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	_, err := live.Migrate(t.Context(), hangs, p.cfg)
	if !errors.Is(err, transport.ErrNoConnection) || !strings.Contains(err.Error(), "within 50ms") {
		t.Errorf("error %v", err)
	}
	p.checkStayed()
}

func TestMigrate_ReportsRounds(t *testing.T) {
	p := newPair(t, "tcp", 2, multifd.QPL)
	p.cfg.Downtime = time.Nanosecond // never reached
	p.cfg.MaxRounds = 4
	p.cfg.Throttle = nil
	p.cfg.Diverging = live.StopAnyway
	out, source, destination := p.run(t.Context(), p.dial)
	if source != nil || destination != nil {
		t.Fatal(source, destination)
	}
	p.checkMoved(out)
	reported := p.reported
	if len(reported) != len(out.Rounds) || len(reported) < 4 {
		t.Fatalf("%d rounds were reported, the outcome has %d", len(reported), len(out.Rounds))
	}
	for i, r := range reported {
		if r.Number != i+1 || r.Took <= 0 || r.Bytes == 0 || len(r.Channels) != 2 || r.CPU < 0 {
			t.Errorf("round %+v", r)
		}
		if !r.Last && r.ExpectedDowntime <= 0 {
			t.Errorf("no downtime is expected: %+v", r)
		}
	}
	first := reported[0]
	if first.Compressed == 0 || first.Raw == 0 || first.MinorFaults == 0 || first.Remaining == 0 || first.DirtyRate <= 0 {
		t.Errorf("the first round: %+v", first)
	}
	// Each writer may write so many pages in a round, and one that it has begun.
	if first.Remaining > 2*(roundPages+1) {
		t.Errorf("%d pages are dirty after the first round; %d were written", first.Remaining, 2*roundPages)
	}
	took := first.Took + first.Scan
	if want := float64(first.Remaining*4096) / took.Seconds(); math.Abs(first.DirtyRate-want) > want/1000 {
		t.Errorf("%.0f bytes a second are dirtied; %d pages in %v are %.0f", first.DirtyRate, first.Remaining, took, want)
	}
}

// lateness is large compared with the delays of a slow test machine.
const lateness = 300 * time.Millisecond

// sluggish delays replies while late is set.
type sluggish struct {
	net.Conn
	late *atomic.Bool
}

func (s sluggish) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if s.late.Load() {
		time.Sleep(lateness)
	}
	return n, err
}

func TestMigrate_SlowFirstRoundIsNoDivergence(t *testing.T) {
	t.Parallel()
	p := newPair(t, "tcp", 1, multifd.None)
	var late atomic.Bool
	late.Store(true)
	report := p.cfg.Report
	p.cfg.Report = func(r live.Round) {
		late.Store(false)
		report(r)
	}
	p.cfg.Downtime = 2*lateness - 1 // and the handover is two ways there and back
	out, source, destination := p.run(t.Context(), func(ctx context.Context) (net.Conn, error) {
		conn, err := p.dial(ctx)
		return sluggish{conn, &late}, err
	})
	if source != nil || destination != nil {
		t.Fatalf("source: %v; destination: %v", source, destination)
	}
	if expected := out.Rounds[0].ExpectedDowntime; expected < p.cfg.Downtime {
		t.Errorf("%v of downtime was expected while the link was sluggish, so nothing is tested", expected)
	}
	p.checkMoved(out)
}

func TestMigrate_KeepsTheBandwidth(t *testing.T) {
	t.Parallel()
	p := newPair(t, "tcp", 2, multifd.None)
	p.cfg.Bandwidth = 32 << 20
	out, source, destination := p.run(t.Context(), p.dial)
	if source != nil || destination != nil {
		t.Fatal(source, destination)
	}
	p.checkMoved(out)
	rate := float64(out.Bytes) / out.Total.Seconds()
	if rate > 1.2*(32<<20) {
		t.Errorf("%.0f bytes a second; %d are allowed", rate, 32<<20)
	}
}

func TestMigrate_DestinationFailureResumesTheSource(t *testing.T) {
	broken := errors.New("no vCPU left")
	for name, change := range map[string]func(*live.ReceiveConfig){
		"when it loads":  func(c *live.ReceiveConfig) { c.Commit = func(*migration.Received) error { return broken } },
		"when it starts": func(c *live.ReceiveConfig) { c.Start = func(*migration.Received) error { return broken } },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, "unix", 2, multifd.Zstd)
			change(&p.recv)
			out, source, destination := p.run(t.Context(), p.dial)
			if source == nil || errors.Is(source, live.ErrUndecided) || !errors.Is(destination, broken) {
				t.Errorf("source: %v; destination: %v", source, destination)
			}
			if p.resumed.Load() != 1 || out.Downtime == 0 {
				t.Errorf("resumed %d times after %v", p.resumed.Load(), out.Downtime)
			}
			p.checkStayed()
		})
	}
}

func TestMigrate_PauseFailureKeepsTheSourceRunning(t *testing.T) {
	stuck := errors.New("a device does not answer")
	p := newPair(t, "unix", 1, multifd.None)
	p.cfg.Pause = func(context.Context) ([]byte, error) { return nil, stuck }
	_, source, destination := p.run(t.Context(), p.dial)
	if !errors.Is(source, stuck) || destination == nil {
		t.Errorf("source: %v; destination: %v", source, destination)
	}
	if p.resumed.Load() != 0 {
		t.Error("it was resumed, and had not been paused")
	}
	p.checkStayed()
}

func TestMigrate_ResumeFailureIsErrNotResumed(t *testing.T) {
	p := newPair(t, "unix", 1, multifd.None)
	p.recv.Commit = func(*migration.Received) error { return errors.New("no") }
	p.cfg.Resume = func() error { return errors.New("it will not") }
	_, source, _ := p.run(t.Context(), p.dial)
	if !errors.Is(source, live.ErrNotResumed) || !strings.Contains(source.Error(), "it will not") {
		t.Error(source)
	}
}

func TestMigrate_SlowDestinationDuringPauseIsAbandoned(t *testing.T) {
	t.Parallel()
	p := newPair(t, "unix", 1, multifd.None)
	p.cfg.StandStill = 200 * time.Millisecond
	release := make(chan struct{})
	p.recv.Commit = func(*migration.Received) error { <-release; return nil }
	p.receive(t.Context())
	out, source := live.Migrate(t.Context(), p.dial, p.cfg)
	close(release)
	destination := <-p.received
	if source == nil || !strings.Contains(source.Error(), "not ready within 200ms") || destination == nil || out.Downtime < 200*time.Millisecond {
		t.Errorf("source: %v; destination: %v; stood still for %v", source, destination, out.Downtime)
	}
	p.checkStayed()
}

func TestMigrate_RefusesInvalidConfigs(t *testing.T) {
	p := newPair(t, "unix", 1, multifd.None)
	for name, change := range map[string]func(*live.Config){
		"no memory":       func(c *live.Config) { c.Memory = nil },
		"no blocks":       func(c *live.Config) { c.Memory = new(guestmem.Memory) },
		"no log":          func(c *live.Config) { c.Dirty = nil },
		"no pause":        func(c *live.Config) { c.Pause = nil },
		"too many rounds": func(c *live.Config) { c.MaxRounds = 501 },
		"no channels":     func(c *live.Config) { c.Channels = -1 },
	} {
		cfg := p.cfg
		change(&cfg)
		out, err := live.Migrate(t.Context(), func(context.Context) (net.Conn, error) {
			return nil, errors.New("dialed")
		}, cfg)
		if err == nil || out == nil || strings.Contains(err.Error(), "dialed") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
