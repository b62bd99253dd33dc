package migration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/vmstate"
)

// ReceiveConfig says what is expected and where it goes.
type ReceiveConfig struct {
	// Channels and Method have to be those of the source.
	Channels int
	Method   multifd.Method
	Sink     guest.Sink
	// UUID, if not all zero, is what the source's machine has to have.
	UUID [16]byte
	// TLS, if not nil, is asked of every connection.
	TLS *tls.Config
	// ConnectTimeout bounds the wait for the source's connections; 0 waits
	// for good.
	ConnectTimeout time.Duration
	// LinkTimeout is how long a TCP link may be dead before that is an error;
	// 0 is half a minute.
	LinkTimeout time.Duration
	Reader      vmstate.ReaderOptions
	// Commit, if not nil, is called when everything has arrived and the sink's
	// lanes are closed. A source with a return path is told how that went, and
	// goes by it.
	Commit func(*Received) error
	// Start, if not nil, starts the machine, after Commit. It is called once,
	// when the source will not run any more unless this side says that it
	// failed; an error says so. Handover directs the rest.
	Start    func(*Received) error
	Handover Handover
	// Accelerator is what qpl uses; nil is software. Its owner closes it.
	Accelerator *multifd.Accelerator
	// Progress, if not nil, is kept up to date.
	Progress *Progress
	// Logger, if not nil, gets what is odd but no error.
	Logger *slog.Logger
}

// Progress are counts of a migration under way. They may be read at any time.
type Progress struct {
	Bytes  atomic.Uint64 // of all channels
	Normal atomic.Uint64 // pages with data
	Zero   atomic.Uint64 // pages that are zero
	// SyncPoints are those passed.
	SyncPoints atomic.Uint64
}

// Received is what came besides pages.
type Received struct {
	// Head is the stream's header and configuration, and Devices all from the
	// first device section on, byte for byte.
	Head, Devices []byte
	// States are the device-state packets in the order in which they came,
	// each channel's in its own.
	States   []multifd.DeviceState
	Config   *vmstate.Configuration
	Layout   *guest.Layout
	SyncMode vmstate.SyncMode
	Commands []vmstate.Command
	UUID     [16]byte
	// ReturnPath says that the source waits to be told how it went.
	ReturnPath bool
	// Verified says that the source did not give up before it knew that this
	// side runs: see Migrate.
	Verified bool
	// ExtraSyncs are SYNCs that the main channel had no sync point for. No
	// page followed them.
	ExtraSyncs int
}

// OwnerState returns the state that the owner of a Go program's memory sent: see
// MigrateConfig.
func (r *Received) OwnerState() ([]byte, error) { return vmstate.ParseOwnerState(r.Devices) }

// Receive takes one migration from a listener, which it closes. A source that
// gives up while it connects may try again: its connections that are closed are
// forgotten, if they are syscall.Conns (those of package net are).
func Receive(ctx context.Context, ln net.Listener, cfg ReceiveConfig) (*Received, error) {
	if cfg.Channels < 1 || cfg.Channels > multifd.MaxChannels {
		ln.Close()
		return nil, fmt.Errorf("%w: %d channels (want 1 to %d)", ErrChannels, cfg.Channels, multifd.MaxChannels)
	}
	if cfg.Start != nil {
		if err := checkStart(ln); err != nil {
			ln.Close()
			return nil, err
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = new(Progress)
	}
	if cfg.Method == multifd.QPL {
		// Before the source is let in, and so before a byte is sent.
		if err := cfg.Accelerator.Ready(); err != nil {
			ln.Close()
			return nil, fmt.Errorf("multifd channel 0: setting up to receive %s: %w", cfg.Method.Name(), err)
		}
	}
	acc := startAccepting(ctx, ln, &cfg)
	defer acc.stop()
	conns, err := acc.gather(ctx)
	if err != nil {
		return nil, err
	}
	defer conns.close()
	return receive(ctx, acc, conns, &cfg)
}

// grace is how long the source may take to close its channels after the end.
const grace = 2 * time.Second

func receive(ctx context.Context, acc *acceptor, conns *connections, cfg *ReceiveConfig) (*Received, error) {
	if cfg.UUID != ([16]byte{}) && conns.uuid != cfg.UUID {
		return nil, fmt.Errorf("%w: the source's machine has the uuid %x (want %x)", ErrChannels, conns.uuid, cfg.UUID)
	}
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, conns.close) // ends all reading
	defer stop()
	d := &destination{
		cfg: cfg, ctx: ctx, acc: acc, meet: newRendezvous(cfg.Channels),
		main:    vmstate.NewReader(conns.main, conns.main, cfg.Reader),
		refused: make(chan error, 1),
	}
	head, err := d.main.ReadHead()
	if err != nil {
		return nil, withCause(ctx, err)
	}
	if head.HasUUID && head.UUID != conns.uuid {
		return nil, fmt.Errorf("%w: the main channel has the uuid %x, the others %x", ErrChannels, head.UUID, conns.uuid)
	}
	defer func() { d.unregister() }()
	defer d.closeChannels()
	for id, conn := range conns.channels {
		r, err := multifd.NewReceiver(conn, cfg.Method, multifd.ChannelConfig{Channel: id, PageSize: head.PageSize(), Accelerator: cfg.Accelerator})
		if err != nil {
			return nil, err
		}
		d.channels = append(d.channels, &channel{id: id, recv: r})
	}
	for _, c := range d.channels {
		group.Go(func() error { return d.unlessDecided(d.runChannel(c)) })
	}
	group.Go(func() error {
		err := acc.refuseMore(ctx)
		d.refused <- err
		return err
	})
	var received *Received
	group.Go(func() (err error) {
		received, err = d.runMain(conns)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, withCause(ctx, err)
	}
	return received, nil
}

// withCause prefers what ended the context, from outside, to what the closing
// of connections then looked like.
func withCause(ctx context.Context, err error) error {
	if errors.Is(err, net.ErrClosed) && ctx.Err() != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, net.ErrClosed) {
			return cause
		}
	}
	return err
}
