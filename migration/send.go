package migration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/devicestate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// ZeroPages is how a source sends zero pages.
type ZeroPages uint8

const (
	// ZeroInMain sends a record on the main channel. Every QEMU supports it and
	// clears the page.
	ZeroInMain ZeroPages = iota
	// ZeroInPackets lists zero pages in the packets, which QEMU supports from 9.0.
	// From 9.1 on QEMU assumes that a page which it receives first is zero already.
	ZeroInPackets
)

// SendConfig configures a Sender. Head and Layout are required.
type SendConfig struct {
	Wire
	// Head is the stream's header and configuration: Received.Head, or the result
	// of vmstate.Configuration.Head.
	Head   []byte
	Layout *guest.Layout
	// SyncMode must be that of the destination's machine type.
	SyncMode vmstate.SyncMode
	UUID     [16]byte // of the machine
	Zero     ZeroPages
	// ReturnPath opens the return path, on which the destination reports the
	// result. Finish waits for the result.
	ReturnPath bool
	// Bandwidth limits the bytes per second of all channels together; 0 is no
	// limit.
	Bandwidth uint64
	// ConnectTimeout is how long Connect retries while no process listens at the
	// destination; 0 tries once.
	ConnectTimeout time.Duration
	// Pings are the values of PINGs that follow the opening of the return path: see
	// vmstate.HandoverRequest. They need ReturnPath.
	Pings []uint32
}

// Sender is the source of one migration. The order of calls is: Connect, Round any
// number of times, DeviceState, Finish; then Close, also after an error. The methods
// other than CloseConnections must not be called concurrently. When the context of a
// call ends, the Sender's connections are closed.
type Sender struct {
	cfg       SendConfig
	mainConn  net.Conn
	connsMu   sync.Mutex // guards conns and closed: a context can end during Connect
	conns     []*transport.Link
	watch     *transport.Watch
	closed    bool
	senders   []*multifd.Sender
	batches   [][2]*guest.Batch
	packetNum atomic.Uint64

	mu   sync.Mutex // guards main, which all channels write in ZeroInMain
	main *vmstate.Writer

	limit      *rate.Limiter // nil without a limit
	returnPath *ReturnPath   // nil without one
	pings      uint32
}

// Connect opens the main channel, then the multifd channels in order, and sends the
// setup and the first sync point.
func Connect(ctx context.Context, dial transport.Dialer, cfg SendConfig) (_ *Sender, err error) {
	if cfg.Wire, err = cfg.Wire.WithDefaults(); err != nil {
		return nil, err
	}
	s := &Sender{cfg: cfg, limit: newLimiter(cfg.Bandwidth), watch: transport.StartWatch(true, cfg.StallTimeout, cfg.LinkTimeout)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	// Set the method up first: a missing requirement fails before a byte is sent.
	for id := range cfg.Channels {
		if err := s.setUpChannel(id); err != nil {
			return nil, err
		}
	}
	first := func(ctx context.Context) (*transport.Link, error) {
		return dial.LinkOnceListening(ctx, cfg.LinkTimeout, cfg.ConnectTimeout)
	}
	if s.mainConn, err = s.open(ctx, first); err != nil {
		return nil, err
	}
	s.main = vmstate.NewWriter(s.mainConn, cfg.Layout, cfg.SyncMode)
	defer s.closeWhenDone(ctx)()
	if err := s.sendHead(); err != nil {
		return nil, s.failure(ctx, err)
	}
	for id := range cfg.Channels {
		if err := s.openChannel(ctx, dial, id); err != nil {
			return nil, s.failure(ctx, err)
		}
	}
	if err := s.main.Setup(); err != nil {
		return nil, s.failure(ctx, err)
	}
	if err := s.sync(); err != nil {
		return nil, s.failure(ctx, err)
	}
	return s, nil
}

// sendHead writes the head, opens the return path, and flushes: a destination
// identifies connections by their first bytes.
func (s *Sender) sendHead() error {
	if err := s.main.Head(s.cfg.Head); err != nil {
		return err
	}
	if s.cfg.ReturnPath {
		commands := vmstate.OpenReturnPath()
		for _, value := range s.cfg.Pings {
			commands = append(commands, vmstate.Ping(value))
		}
		for _, c := range commands {
			if err := s.main.Command(c); err != nil {
				return err
			}
		}
		s.returnPath = readReturnPath(s.mainConn)
	}
	return s.main.Flush()
}

// setUpChannel creates the sender and the batches of one channel.
func (s *Sender) setUpChannel(id int) error {
	sender, err := multifd.NewSender(nil, s.cfg.Method, &s.packetNum, multifd.ChannelConfig{
		Channel: id, PageSize: s.cfg.Layout.PageSize, Level: s.cfg.Level, Accelerator: s.cfg.Accelerator,
	})
	if err != nil {
		return err
	}
	s.senders = append(s.senders, sender)
	var batches [2]*guest.Batch
	for i := range batches {
		batches[i] = &guest.Batch{TakeDeflated: sender.TakesDeflated()}
	}
	s.batches = append(s.batches, batches)
	return nil
}

// open makes a connection that CloseConnections closes.
func (s *Sender) open(ctx context.Context, dial func(context.Context) (*transport.Link, error)) (net.Conn, error) {
	l, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	if s.closed {
		l.Close()
		return nil, context.Cause(ctx)
	}
	s.conns = append(s.conns, l)
	s.watch.Add(l)
	return l, nil
}

func (s *Sender) openChannel(ctx context.Context, dial transport.Dialer, id int) error {
	conn, err := s.open(ctx, func(ctx context.Context) (*transport.Link, error) { return dial.Link(ctx, s.cfg.LinkTimeout) })
	if err != nil {
		return fmt.Errorf("multifd channel %d: %w", id, err)
	}
	s.senders[id].Attach(conn)
	return s.senders[id].Handshake(s.cfg.UUID)
}

// closeWhenDone closes all connections when ctx ends, which ends all reads and writes.
// The returned function cancels that.
func (s *Sender) closeWhenDone(ctx context.Context) func() {
	stop := context.AfterFunc(ctx, s.CloseConnections)
	return func() { stop() }
}

// sync sends a SYNC on all channels concurrently: a destination may wait for all SYNCs
// before it continues to read.
func (s *Sender) sync() error {
	var group errgroup.Group
	for _, sender := range s.senders {
		group.Go(sender.Sync)
	}
	s.cfg.Counters.SyncPoints.Add(1)
	return group.Wait()
}

// Round sends all pages that src yields, then a sync point. The channels call src.Next
// concurrently.
func (s *Sender) Round(ctx context.Context, src guest.Source) error {
	defer s.closeWhenDone(ctx)()
	if err := s.main.BeginSection(false); err != nil {
		return s.failure(ctx, err)
	}
	group, running := errgroup.WithContext(ctx)
	for i, sender := range s.senders {
		group.Go(func() error { return s.runChannel(running, sender, s.batches[i], src) })
	}
	if err := group.Wait(); err != nil {
		return s.failure(ctx, err)
	}
	return s.failure(ctx, s.syncPoint())
}

// syncPoint ends a section. It writes the SYNCs and the main channel's record
// concurrently, because the destination may wait for either.
func (s *Sender) syncPoint() error {
	var group errgroup.Group
	group.Go(s.sync)
	group.Go(s.main.EndSection)
	return group.Wait()
}

func (s *Sender) runChannel(ctx context.Context, sender *multifd.Sender, batches [2]*guest.Batch, src guest.Source) error {
	before := sender.Bytes()
	for {
		b := batches[0]
		if sender.Holds(b) {
			b = batches[1]
		}
		switch err := src.Next(ctx, b); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		s.cfg.Counters.Normal.Add(uint64(len(b.Normal)))
		s.cfg.Counters.Zero.Add(uint64(len(b.Zero)))
		if err := s.sendZero(b); err != nil {
			return err
		}
		if err := sender.Send(b); err != nil {
			return err
		}
		sent := sender.Bytes() - before
		s.cfg.Counters.Bytes.Add(sent)
		before += sent
		if err := waitLimit(ctx, s.limit, sent); err != nil {
			return err
		}
	}
}

// sendZero sends the zero pages of the batch on the main channel, and removes them from
// the batch, in the mode ZeroInMain.
func (s *Sender) sendZero(b *guest.Batch) error {
	if s.cfg.Zero != ZeroInMain || len(b.Zero) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, off := range b.Zero {
		if err := s.main.Zero(b.Block, off); err != nil {
			return err
		}
	}
	b.Zero = b.Zero[:0]
	return nil
}

// DeviceState sends a device-state packet on the first channel. It must be called after
// the last Round.
func (s *Sender) DeviceState(ctx context.Context, d devicestate.Packet) error {
	defer s.closeWhenDone(ctx)()
	return s.failure(ctx, s.senders[0].SendDeviceState(&d))
}

// Finish calls End. With a return path it then waits for the destination's result,
// which is an error that wraps vmstate.ErrRefused if the destination failed.
func (s *Sender) Finish(ctx context.Context, devices []byte) error {
	if err := s.End(ctx, devices); err != nil || s.returnPath == nil {
		return err
	}
	defer s.closeWhenDone(ctx)()
	defer s.watch.AwaitReply()()
	select {
	case <-s.returnPath.ended:
		return cause.Of(ctx, s.returnPath.err, nil, "")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// End ends RAM and sends the device state, which includes the end of the stream. It
// does not wait for the destination: see Finish.
func (s *Sender) End(ctx context.Context, devices []byte) error {
	defer s.closeWhenDone(ctx)()
	if err := s.main.BeginSection(true); err != nil {
		return s.failure(ctx, err)
	}
	if err := s.syncPoint(); err != nil {
		return s.failure(ctx, err)
	}
	return s.failure(ctx, s.main.Devices(devices))
}

// failure returns the error that explains err, an error of sending: see cause.Of.
func (s *Sender) failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var peer error
	if s.returnPath != nil && s.returnPath.hasEndedAfter(ctx, err) {
		if peer = s.returnPath.err; errors.Is(peer, net.ErrClosed) || errors.Is(peer, transport.ErrStalled) {
			peer = nil
		}
	}
	return cause.Of(ctx, err, transport.AdviseAlert(peer), "while sending")
}

// CloseConnections closes all connections, which ends all reads and writes. It may be
// called concurrently with the other methods.
func (s *Sender) CloseConnections() {
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	s.closed = true
	transport.CloseAll(s.conns)
}

// Close closes the connections and the senders, and waits for the Sender's goroutines.
func (s *Sender) Close() error {
	s.CloseConnections()
	s.watch.Stop()
	for _, sender := range s.senders {
		sender.Close()
	}
	s.senders = nil
	if s.returnPath != nil {
		<-s.returnPath.ended // CloseConnections ends its reader
	}
	return nil
}

// ReturnPath returns the messages of the destination, nil without a return path.
func (s *Sender) ReturnPath() *ReturnPath { return s.returnPath }

// SetWriteDeadline sets the deadline of writes on the main channel.
func (s *Sender) SetWriteDeadline(t time.Time) error { return s.mainConn.SetWriteDeadline(t) }

// Sent counts what the multifd channels have sent.
type Sent struct {
	Pages multifd.SentPages // of all channels
	Bytes []uint64          // of each channel
}

// Sent returns the counts so far. It must not be called during Round.
func (s *Sender) Sent() (sum Sent) {
	for _, c := range s.senders {
		p := c.Pages()
		sum.Pages.Zero += p.Zero
		sum.Pages.Raw += p.Raw
		sum.Pages.Compressed += p.Compressed
		sum.Bytes = append(sum.Bytes, c.Bytes())
	}
	return sum
}
