package migration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
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

// Receive takes one migration from a listener, which it closes.
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
		group.Go(func() error { return d.runChannel(c) })
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

// destination is one migration on its way in.
type destination struct {
	cfg      *ReceiveConfig
	ctx      context.Context
	acc      *acceptor
	refused  chan error   // how refuseMore ended
	release  func() error // takes the accelerator's hold on guest memory back
	meet     *rendezvous
	main     *vmstate.Reader
	mainLane guest.Lane
	channels []*channel
	one      [1]uint64   // for pages that come by the main channel
	done     atomic.Bool // all has arrived and the source was told so
	settled  sync.Once

	mu     sync.Mutex
	states []multifd.DeviceState
	held   uint64 // bytes of states
}

// maxStates bounds the device state that is kept in memory.
const maxStates = 1 << 30

// channel is one multifd channel. mu is held while a packet is put into the
// lane, so that the end does not come in between.
type channel struct {
	id    int
	recv  *multifd.Receiver
	bytes uint64

	mu    sync.Mutex
	lane  guest.Lane
	over  bool // the main channel is at its end: no more pages
	extra int
}

func (d *destination) closeChannels() {
	for _, c := range d.channels {
		c.recv.Close()
	}
}

// unregister is called when the channels are closed: no job is left.
func (d *destination) unregister() {
	if d.release == nil {
		return
	}
	if err := d.release(); err != nil {
		d.cfg.Logger.Warn("taking guest memory back from the accelerator", "error", err)
	}
}

// runMain reads the main channel to its end, and ends the migration.
func (d *destination) runMain(conns *connections) (*Received, error) {
	err := d.main.Run(d)
	if err == nil {
		d.settle()
		err = <-d.refused
	}
	if err == nil {
		err = d.finish()
	}
	var received *Received
	if err == nil {
		received = d.received(conns)
		if d.wantsHandover() {
			err = d.complete()
		}
	}
	if err == nil {
		if d.cfg.Commit != nil {
			err = d.cfg.Commit(received)
		}
	}
	if err == nil && d.cfg.Start != nil {
		switch {
		case d.heard(wordStay):
			err = fmt.Errorf("%w: its machine stays there, and this side was told to start it", ErrSourceGone)
		case d.wantsHandover():
			return received, d.handOver(conns, received)
		default:
			err = d.cfg.Start(received)
		}
	}
	if shutErr := d.main.Shut(err == nil); err == nil && shutErr != nil {
		err = fmt.Errorf("telling the source that all has arrived: %w", shutErr)
	}
	if err != nil {
		return nil, err
	}
	d.letGo(conns)
	return received, nil
}

// letGo waits a little for the source to close its connections.
func (d *destination) letGo(conns *connections) {
	d.done.Store(true)
	// Let the source close first: one that finds its channels gone may take
	// it for a failure.
	for _, conn := range append([]net.Conn{conns.main}, conns.channels...) {
		conn.SetReadDeadline(time.Now().Add(grace))
	}
	if d.main.ReturnPath() {
		io.Copy(io.Discard, conns.main)
	}
}

// finish closes the lanes: no page comes after it.
func (d *destination) finish() error {
	d.meet.end(errMainDone)
	var first error
	for _, c := range d.channels {
		c.mu.Lock()
		c.over = true
		if c.lane != nil {
			if err := c.lane.Close(); err != nil && first == nil {
				first = err
			}
		}
		c.mu.Unlock()
	}
	if err := d.mainLane.Close(); err != nil && first == nil {
		first = err
	}
	return first
}

func (d *destination) received(conns *connections) *Received {
	r := &Received{
		Head: d.main.Head(), Devices: d.main.Devices(), Config: d.main.Configuration(),
		Layout: d.main.Layout(), SyncMode: d.main.SyncMode(), Commands: d.main.Commands(),
		UUID: conns.uuid, ReturnPath: d.main.ReturnPath(),
	}
	d.mu.Lock()
	r.States = d.states
	d.mu.Unlock()
	for _, c := range d.channels {
		c.mu.Lock()
		r.ExtraSyncs += c.extra
		c.mu.Unlock()
	}
	if r.ExtraSyncs > 0 {
		d.cfg.Logger.Warn("channels carried SYNCs that the main channel had no sync point for", "count", r.ExtraSyncs)
	}
	return r
}

// Setup, SyncPoint, Zero and Page make the destination a vmstate.Handler.

func (d *destination) Setup(l *guest.Layout, _ vmstate.SyncMode) error {
	if err := d.cfg.Sink.Setup(l); err != nil {
		return err
	}
	if mem := d.memory(); mem != nil && d.cfg.Method == multifd.QPL {
		release, err := d.cfg.Accelerator.Register(mem)
		if err != nil {
			return err
		}
		d.release = release
	}
	lane, err := d.cfg.Sink.Lane()
	if err != nil {
		return err
	}
	d.mainLane = lane
	// The channels wait at the first sync point, or have nothing to read
	// before it; they see this once they are past it.
	for _, c := range d.channels {
		lane, err := d.cfg.Sink.Lane()
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.lane = lane
		c.mu.Unlock()
	}
	return nil
}

// memory is the sink, if that is memory of this process.
func (d *destination) memory() *guest.Memory {
	mem, _ := d.cfg.Sink.(*guest.Memory)
	return mem
}

func (d *destination) SyncPoint() error {
	if err := d.meet.wait(d.ctx); err != nil {
		return err
	}
	if d.cfg.Progress.SyncPoints.Add(1); d.wantsHandover() && d.cfg.Start != nil {
		go d.settle() // which runMain waits for
	}
	return nil
}

// settle ends the accepting. A source that hands over makes all its connections
// before its first sync point, so that the last look for more of them need not
// come while its machine stands still.
func (d *destination) settle() { d.settled.Do(d.acc.settle) }

func (d *destination) at(offset uint64) []uint64 {
	d.one[0] = offset
	return d.one[:]
}

func (d *destination) Zero(b *guest.Block, offset uint64) error {
	d.cfg.Progress.Zero.Add(1)
	return d.mainLane.Zero(b, d.at(offset))
}

func (d *destination) Page(b *guest.Block, offset uint64, data []byte) error {
	d.cfg.Progress.Normal.Add(1)
	pages, err := d.mainLane.Pages(b, d.at(offset))
	if err != nil {
		return err
	}
	copy(pages[0], data)
	return d.mainLane.Commit()
}

var errMainDone = errors.New("the main channel has none for this SYNC")

// runChannel reads one multifd channel to its end.
func (d *destination) runChannel(c *channel) error {
	for first := true; ; {
		packet, state, err := c.recv.Next()
		d.cfg.Progress.Bytes.Add(c.recv.Bytes() - c.bytes)
		c.bytes = c.recv.Bytes()
		switch {
		case err == io.EOF:
			// Right at the end; wrong if a sync point is still to come.
			d.meet.leave(&multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "SYNC",
				Err: fmt.Errorf("%w: the peer closed the connection while the main channel goes on", multifd.ErrTruncated)})
			return nil
		case err != nil:
			if d.done.Load() {
				return nil // the deadline of the grace, or the closing
			}
			return err
		case state != nil:
			if err := d.keepState(c, state); err != nil {
				return err
			}
			continue
		}
		if err := d.place(c, packet); err != nil {
			return err
		}
		if !packet.Sync() {
			continue
		}
		if err := c.recv.Flush(); err != nil {
			return err
		}
		if err := d.meetChannel(c); err != nil {
			return err
		}
		if first {
			first = false
			if l := d.main.Layout(); l != nil {
				c.recv.SetLayout(l)
			}
		}
	}
}

// place puts the packet's pages into the lane.
func (d *destination) place(c *channel, p *multifd.Packet) error {
	if len(p.Normal)+len(p.Zero) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return &multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "normal_pages",
			Err: fmt.Errorf("%w: pages after the last sync point", multifd.ErrMalformed)}
	}
	if err := c.recv.Receive(c.lane); err != nil {
		return err
	}
	d.cfg.Progress.Normal.Add(uint64(len(p.Normal)))
	d.cfg.Progress.Zero.Add(uint64(len(p.Zero)))
	return nil
}

// meetChannel waits at a SYNC for all others.
func (d *destination) meetChannel(c *channel) error {
	err := d.meet.wait(d.ctx)
	if errors.Is(err, errMainDone) {
		c.mu.Lock()
		c.extra++
		c.mu.Unlock()
		return nil
	}
	var ce *multifd.ChannelError
	if err != nil && errors.As(err, &ce) {
		return err // another channel has left: it is named
	}
	if err != nil {
		return &multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "SYNC", Err: err}
	}
	return nil
}

func (d *destination) keepState(c *channel, s *multifd.DeviceState) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held += uint64(len(s.Data)) + 276
	if d.held > maxStates {
		return &multifd.ChannelError{Channel: c.id, Packet: c.recv.Count(), Field: "size",
			Err: fmt.Errorf("%w: more than %d bytes of device state", multifd.ErrMalformed, maxStates)}
	}
	d.states = append(d.states, *s)
	return nil
}
