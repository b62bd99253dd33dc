package qemu

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qemu/agreement"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/relay"
	"github.com/vmferry/vmferry/transport"
)

// AcceptOptions say which QEMU takes a machine, and from where. Zero values are defaults.
type AcceptOptions struct {
	// Monitor opens the monitor of a QEMU that was started like the source's, with
	// "-incoming defer". Mostly it is a qmp.Socket.
	Monitor qmp.Opener
	// Listen is where this side listens. Listener, if not nil, is used in its place;
	// Accept closes it.
	Listen   transport.Address
	Listener net.Listener
	// TLS, if not nil, is required of every connection, in version 1.3 or later.
	// Without TLS anyone who can connect can read or replace the machine's memory.
	TLS *tls.Config
	// Relay configures what carries QEMU's connections. OneMigration is set.
	Relay relay.Config
	// Wait bounds the wait for the source to connect; 0 waits forever.
	Wait time.Duration
	// ConnectTimeout is how long Accept waits for the monitor of a QEMU that was just
	// started; 10 s, negative for a single attempt.
	ConnectTimeout time.Duration
	// StallTimeout bounds QEMU's answers; 0 is 2 minutes, negative is forever.
	StallTimeout time.Duration
	// LinkTimeout is how long the source may send nothing; 30 s.
	LinkTimeout time.Duration
	// Inquiry is how long Accept answers a source that asks where the machine runs,
	// after the connection broke at the end; 30 s.
	Inquiry time.Duration
	// SocketDir is the directory for the socket between QEMU and this process.
	SocketDir string
	// Tool names the program to the source.
	Tool     string
	Progress func(migration.Progress)
	Logger   *slog.Logger
}

// AcceptResult describes a machine that was taken over.
type AcceptResult struct {
	// Source is the address that the source connected from.
	Source string `json:"source"`
	// SourceQEMU and QEMU are the versions of both.
	SourceQEMU string `json:"source_qemu"`
	QEMU       string `json:"qemu"`
	Machine    string `json:"machine"`
	// Total is the time since the source connected.
	Total time.Duration `json:"total_ns"`
	// RunState is the state of the machine here. Runs says where the machine is:
	// "destination".
	RunState string `json:"run_state"`
	Runs     string `json:"runs"`
	// Confirmed says that the source has learned it.
	Confirmed bool `json:"confirmed"`
}

func (o *AcceptOptions) defaults() {
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.LinkTimeout == 0 {
		o.LinkTimeout = agreement.DefaultSilence
	}
	if o.Inquiry == 0 {
		o.Inquiry = defaultInquiry
	}
	if o.Progress == nil {
		o.Progress = func(migration.Progress) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Relay.OneMigration = true
	if o.Relay.LinkTimeout == 0 {
		o.Relay.LinkTimeout = o.LinkTimeout
	}
	if o.Relay.Logger == nil {
		o.Relay.Logger = o.Logger
	}
}

// defaultInquiry is how long a source asks, and a destination answers.
const defaultInquiry = 30 * time.Second

// Accept takes over one machine that Migrate sends. The machine runs here only if the
// source says so. When Accept fails, its error says in which state this QEMU is.
//
// A source that only compares (MigrateOptions.DryRun), or that disconnects before
// anything was changed, is followed by the next one.
func Accept(ctx context.Context, opts AcceptOptions) (_ *AcceptResult, err error) {
	opts.defaults()
	a := &accept{opts: opts, began: time.Now(), destination: destination{
		monitor: opts.Monitor, tool: opts.Tool, socketDir: opts.SocketDir, stall: opts.StallTimeout, logger: opts.Logger,
	}}
	defer func() { a.finish(ctx) }()
	if err := a.open(ctx, opts.ConnectTimeout); err != nil {
		if opts.Listener != nil {
			opts.Listener.Close()
		}
		return nil, err
	}
	ln := opts.Listener
	if ln == nil {
		if ln, err = opts.Listen.Listen(ctx); err != nil {
			return nil, err
		}
	}
	a.listener = agreement.NewListener(context.WithoutCancel(ctx), ln, agreement.ListenerConfig{TLS: opts.TLS, Silence: opts.LinkTimeout, Logger: opts.Logger})
	defer a.listener.Close()
	return a.run(ctx)
}

// accept is one Accept under way.
type accept struct {
	destination
	opts     AcceptOptions
	began    time.Time
	listener *agreement.Listener
}

// errNoMigration says that no source has connected.
var errNoMigration = errors.New("no source connected")

// run talks to one source after the other, until one has changed something.
func (a *accept) run(ctx context.Context) (*AcceptResult, error) {
	waiting := ctx
	if a.opts.Wait > 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeoutCause(ctx, a.opts.Wait, fmt.Errorf("%w within %v; start vmferry migrate at the source within that time, or raise --wait", errNoMigration, a.opts.Wait))
		defer cancel()
	}
	for {
		a.report("wait")
		select {
		case conn, open := <-a.listener.Controls():
			if !open {
				return nil, fmt.Errorf("%w: the listener has ended", errNoMigration)
			}
			c := &conversation{accept: a, conn: conn, began: time.Now(), verdict: newVerdict()}
			result, err := c.run(ctx)
			if !c.over {
				if err != nil {
					a.logger.Warn("a source ended the conversation before anything was changed", "source", conn.RemoteAddr(), "error", err)
				}
				continue
			}
			return result, err
		case <-waiting.Done():
			return nil, context.Cause(waiting)
		}
	}
}

func (a *accept) report(phase string) {
	a.opts.Progress(migration.Progress{Task: migration.TaskAccept, Phase: phase, Elapsed: time.Since(a.began)})
}
