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

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
	"github.com/vmferry/vmferry/vmstate"
)

// ZeroPages is how a source tells of pages that are zero.
type ZeroPages uint8

const (
	// ZeroInMain sends a record on the main channel, which every QEMU knows
	// and which makes the page zero whatever it was.
	ZeroInMain ZeroPages = iota
	// ZeroInPackets names them in the packets, which a QEMU knows from 9.0.
	// From 9.1 on it takes a page that did not come before to be zero.
	ZeroInPackets
)

// SendConfig says what is sent and how.
type SendConfig struct {
	Wire
	// Head is the stream's header and configuration: of a machine that was
	// received, or made by vmstate.Configuration.
	Head   []byte
	Layout *guest.Layout
	// SyncMode has to be that of the destination's machine type.
	SyncMode vmstate.SyncMode
	UUID     [16]byte
	Zero     ZeroPages
	// ReturnPath asks the destination to say how it went. Finish then waits
	// for that.
	ReturnPath bool
	// Bandwidth bounds the bytes a second of all channels together; 0 is no
	// bound.
	Bandwidth uint64
	// ConnectTimeout is how long a destination that does not listen yet is
	// tried again; 0 tries once.
	ConnectTimeout time.Duration
	// Pings are the values of PINGs with which the stream begins, if ReturnPath is
	// set: see vmstate.WordAsk.
	Pings []uint32
}

// Sender is the source of one migration. Its calls are Connect, Round any
// number of times, DeviceState, Finish; and Close in any case.
type Sender struct {
	cfg       SendConfig
	mainConn  net.Conn
	connsMu   sync.Mutex // a context that ends closes while channels are opened
	conns     []*transport.Link
	watch     *transport.Watch
	closed    bool
	senders   []*multifd.Sender
	batches   [][2]*guest.Batch
	packetNum atomic.Uint64

	mu   sync.Mutex // main is written by all channels in ZeroInMain
	main *vmstate.Writer

	limit      *rate.Limiter // nil without a bound
	returnPath *ReturnPath   // nil without one
	pings      uint32
}

// Connect opens the main channel first and then the multifd channels, in
// order, and sends the setup.
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
	// The method is set up before anything is connected: what it lacks shows
	// before a byte is sent.
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

// sendHead writes the head, so that a destination that tells its connections
// apart by their first bytes has them, and opens the return path.
func (s *Sender) sendHead() error {
	if err := s.main.Head(s.cfg.Head); err != nil {
		return err
	}
	if s.cfg.ReturnPath {
		commands := vmstate.OpenReturnPath()
		for _, word := range s.cfg.Pings {
			commands = append(commands, vmstate.Ping(word))
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

// setUpChannel readies the method for one channel.
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

// open makes a connection that closeConns closes.
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

// closeWhenDone closes all connections when ctx ends, which ends all writing. The
// returned function takes that back.
func (s *Sender) closeWhenDone(ctx context.Context) func() {
	stop := context.AfterFunc(ctx, s.CloseConnections)
	return func() { stop() }
}

// sync sends a SYNC on every channel, at once: a destination may want them all
// before it reads on.
func (s *Sender) sync() error {
	var group errgroup.Group
	for _, sender := range s.senders {
		group.Go(sender.Sync)
	}
	s.cfg.Counters.SyncPoints.Add(1)
	return group.Wait()
}

// Round sends all pages that the source yields, and a sync point.
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

// syncPoint ends a section. The SYNCs and the main channel's record are
// written side by side: the destination may be waiting for either.
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

// sendZero takes the zero pages out of the batch if they go by the main
// channel.
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

// DeviceState sends a device-state packet on the first channel. Device states
// belong behind the last round.
func (s *Sender) DeviceState(ctx context.Context, d multifd.DeviceState) error {
	defer s.closeWhenDone(ctx)()
	return s.failure(ctx, s.senders[0].SendDeviceState(&d))
}

// Finish ends RAM, sends the device state with the end of the stream, and with
// a return path waits until the destination says how it went.
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

// End ends RAM and sends the device state with the end of the stream. It does not wait
// for the destination: see Finish.
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

// failure returns the error that explains why sending failed: see cause.Of.
func (s *Sender) failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var said error
	if s.returnPath != nil && s.returnPath.hasEndedAfter(ctx, err) {
		if said = s.returnPath.err; errors.Is(said, net.ErrClosed) || errors.Is(said, transport.ErrStalled) {
			said = nil
		}
	}
	return cause.Of(ctx, err, transport.AdviseAlert(said), "while sending")
}

// CloseConnections ends all reading and writing.
func (s *Sender) CloseConnections() {
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	s.closed = true
	transport.CloseAll(s.conns)
}

// Close closes the connections and frees what the method holds.
func (s *Sender) Close() error {
	s.CloseConnections()
	s.watch.Stop()
	for _, sender := range s.senders {
		sender.Close()
	}
	s.senders = nil
	if s.returnPath != nil {
		<-s.returnPath.ended // its reader sees the closing
	}
	return nil
}

// ReturnPath returns what the destination says; nil without a return path.
func (s *Sender) ReturnPath() *ReturnPath { return s.returnPath }

// SetWriteDeadline bounds the writing of the main channel.
func (s *Sender) SetWriteDeadline(t time.Time) error { return s.mainConn.SetWriteDeadline(t) }

// Sent is what each channel has carried.
type Sent struct {
	Pages multifd.SentPages // of all channels
	Bytes []uint64          // of each channel
}

// Sent returns what was sent so far. No Round may be under way.
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
