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
	"github.com/vmferry/vmferry/pagecodec"
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
	// 0 is half a minute. A source that acknowledges is alive.
	LinkTimeout time.Duration
	// StallTimeout is how long no byte may move on any of the connections
	// while this side waits for the source, before that is an error that wraps
	// ErrStalled; 0 is two minutes, less than 0 is for good. The time before
	// the source connects is ConnectTimeout's, and the work of this side does
	// not count.
	StallTimeout time.Duration
	// Reader directs the reading of the main channel. Its MaxDevices, 1 GiB if it is
	// 0, bounds all device state together: the main channel's and that in
	// device-state packets of all channels.
	Reader vmstate.ReaderOptions
	// MaxMemory bounds the memory that the source's machine may have, in bytes; 0 is
	// vmstate.DefaultMaxMemory. More is refused before anything is made for it.
	MaxMemory uint64
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
	Accelerator *pagecodec.Accelerator
	// Pace, if not nil, bounds the bytes a second that are read.
	Pace *Pace
	// Progress, if not nil, is kept up to date.
	Progress *Progress
	// Logger, if not nil, gets what is odd but no error.
	Logger *slog.Logger

	identifyWithin time.Duration // instead of the constant, for tests
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
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, conns.close) // ends all reading
	defer stop()
	watch := startWatch(false, cfg.StallTimeout, cfg.LinkTimeout, conns.links...)
	defer watch.stop()
	for _, l := range conns.links[1:] {
		l.aside.Add(1) // until its goroutine reads
	}
	d := &destination{
		cfg: cfg, ctx: ctx, acc: acc, watch: watch, meet: newRendezvous(cfg.Channels),
		refused: make(chan error, 1),
	}
	states := newStateBudget(cfg.Reader.MaxDevices)
	d.main = vmstate.NewReader(conns.main, conns.main, readerOptions(cfg, states))
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
		r, err := multifd.NewReceiver(conn, cfg.Method, multifd.ChannelConfig{Channel: id, PageSize: head.PageSize(), Accelerator: cfg.Accelerator, StateBudget: states.take})
		if err != nil {
			return nil, err
		}
		d.channels = append(d.channels, &channel{id: id, recv: r, link: conns.links[id+1]})
	}
	ends := make([]error, 1+len(d.channels))
	for i, c := range d.channels {
		group.Go(func() error {
			c.link.aside.Add(-1)
			defer c.link.aside.Add(1)
			ends[1+i] = d.runChannel(c)
			return d.unlessDecided(ends[1+i])
		})
	}
	group.Go(func() error {
		err := acc.refuseMore(ctx, conns.uuid)
		d.refused <- err
		return err
	})
	var received *Received
	group.Go(func() error {
		defer conns.links[0].aside.Add(1)
		received, ends[0] = d.runMain(conns)
		return ends[0]
	})
	err = group.Wait()
	if errors.Is(err, ErrStalled) {
		return nil, stalled(err, ends)
	}
	if err != nil {
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
