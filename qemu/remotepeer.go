package qemu

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vmferry/vmferry/internal/sleep"
	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/qemu/agreement"
	"github.com/vmferry/vmferry/relay"
	"github.com/vmferry/vmferry/transport"
)

// remotePeer is a vmferry on another host that runs Accept.
type remotePeer struct {
	opts  *MigrateOptions
	dial  transport.Dialer
	conn  *agreement.Conn
	token agreement.Token

	news    chan peerEvent
	answers chan received // messages after run
	end     context.CancelFunc
	running sync.WaitGroup // everything but the carrying

	relay    *relay.Relay
	carry    context.CancelFunc
	carrying sync.WaitGroup
	stopOnce sync.Once
	handed   bool // run was sent: no message takes the machine back
}

func newRemotePeer(opts *MigrateOptions) *remotePeer {
	p := &remotePeer{opts: opts, news: make(chan peerEvent), answers: make(chan received, 1), end: func() {}, carry: func() {}}
	if p.dial = opts.Dial; p.dial == nil {
		secure := transport.RequireTLS13(opts.TLS)
		p.dial = func(ctx context.Context) (net.Conn, error) { return opts.Connect.Dial(ctx, secure) }
	}
	return p
}

func (p *remotePeer) linkBytes() uint64 {
	if p.relay == nil {
		return 0
	}
	return p.relay.Stats().Total.ToLink
}

func (p *remotePeer) name() string {
	if p.opts.Dial != nil {
		return "another host"
	}
	return p.opts.Connect.String()
}

// talk opens a control connection.
func (p *remotePeer) talk(ctx context.Context, patience time.Duration) (*agreement.Conn, error) {
	link, err := p.dial.LinkOnceListening(ctx, p.opts.LinkTimeout, max(patience, 0))
	if err != nil {
		return nil, err
	}
	return agreement.OpenControl(link, p.opts.LinkTimeout)
}

// askPatience bounds the wait for an answer of the destination, which asks its QEMU.
const askPatience = 5 * time.Minute

// ask sends a message and receives the answer to it.
func ask(ctx context.Context, conn *agreement.Conn, m agreement.Message, want agreement.Type) (agreement.Message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askPatience, fmt.Errorf("destination: no answer within %v", askPatience))
	defer cancel()
	if err := conn.Send(m); err != nil {
		return agreement.Message{}, err
	}
	return receiveType(ctx, conn, want, destinationFailed)
}

// destinationFailed is the error of a destination that says why it failed.
func destinationFailed(m agreement.Message) error {
	return fmt.Errorf("destination: %s", termtext.Text(orUnknown(m.Reason)))
}

func (p *remotePeer) agree(ctx context.Context, source *agreement.Description) (*agreement.Message, error) {
	var err error
	if p.conn, err = p.talk(ctx, p.opts.ConnectTimeout); err != nil {
		return nil, err
	}
	answer, err := ask(ctx, p.conn, agreement.Message{Type: agreement.TypeHello, Description: source, Channels: p.opts.Channels, DryRun: p.opts.DryRun}, agreement.TypeAnswer)
	if err != nil {
		return nil, err
	}
	makeDisplayable(answer.Differences, answer.Remarks)
	answer.Description.QEMU = termtext.Text(answer.Description.QEMU)
	return &answer, nil
}

func (p *remotePeer) start(ctx context.Context, o *outgoing) (string, error) {
	answer, err := ask(ctx, p.conn, agreement.Message{Type: agreement.TypePrepare}, agreement.TypeReady)
	if err != nil {
		return "", err
	}
	p.token = answer.Token
	if p.relay, err = relay.New(p.opts.Relay); err != nil {
		return "", err
	}
	ln, err := o.listen()
	if err != nil {
		return "", err
	}
	// The end of ctx does not end these: QEMU ends the migration first.
	ctx = context.WithoutCancel(ctx)
	talking, end := context.WithCancel(ctx)
	p.end = end
	p.running.Go(func() { p.listenTo(talking) })
	carrying, endCarrying := context.WithCancel(ctx)
	p.carry = endCarrying
	p.carrying.Go(func() { p.carryAll(carrying, talking, ln) })
	return o.dir.address(), nil
}

func (p *remotePeer) events() <-chan peerEvent { return p.news }

// tell delivers an event, unless nothing waits for events any more.
func (p *remotePeer) tell(ctx context.Context, e peerEvent) {
	select {
	case p.news <- e:
	case <-ctx.Done():
	}
}

// listenTo reports what the destination says, until ctx ends or the connection does.
func (p *remotePeer) listenTo(ctx context.Context) {
	in := make(chan received)
	p.running.Go(func() { receiveAll(ctx, p.conn, in) })
	loaded := false
	for {
		var m received
		select {
		case m = <-in:
		case <-ctx.Done():
			return
		}
		switch {
		case loaded:
			p.answers <- m // run receives one, and nothing more comes
			return
		case m.err != nil:
			p.tell(ctx, peerEvent{err: fmt.Errorf("the destination is lost: %w", m.err)})
			return
		case m.Type == agreement.TypeFailed:
			p.tell(ctx, peerEvent{err: destinationFailed(m.Message)})
			return
		case m.Type == agreement.TypeLoaded:
			loaded = true
			p.tell(ctx, peerEvent{loaded: m.RunState})
		default:
			p.tell(ctx, peerEvent{err: orderError(m.Type, agreement.TypeLoaded)})
			return
		}
	}
}

// carryAll accepts QEMU's connections, and carries each over a link of its own. The links
// begin in the order in which QEMU connected.
func (p *remotePeer) carryAll(ctx, talking context.Context, ln *lingerListener) {
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for range p.opts.Channels + 1 {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() == nil {
				p.tell(talking, peerEvent{linkEnded: fmt.Errorf("accepting QEMU's connection: %w", err)})
			}
			return
		}
		link, err := p.openLink(ctx)
		if err != nil {
			conn.Close()
			p.tell(talking, peerEvent{linkEnded: err})
			return
		}
		p.carrying.Go(func() {
			if err := p.relay.Source(ctx, conn, link); err != nil && ctx.Err() == nil {
				p.tell(talking, peerEvent{linkEnded: fmt.Errorf("link: %w", err)})
			}
		})
	}
	<-ctx.Done() // QEMU makes no more
}

func (p *remotePeer) openLink(ctx context.Context) (net.Conn, error) {
	link, err := p.dial.Link(ctx, p.opts.LinkTimeout)
	if err != nil {
		return nil, err
	}
	if err := agreement.OpenLink(link.Conn, p.token); err != nil {
		link.Close()
		return nil, err
	}
	return link.Conn, nil
}

// run says run, and returns what became of it. If the connection breaks, run asks over
// new connections.
func (p *remotePeer) run(ctx context.Context, run bool) agreement.Message {
	select {
	case m := <-p.answers: // and run is not sent
		return agreement.Message{Outcome: agreement.Stays, Reason: sourceReason(m)}
	default:
	}
	p.handed = true
	ctx = context.WithoutCancel(ctx) // from here on only the outcome counts
	lost := p.conn.Send(agreement.Message{Type: agreement.TypeRun, Run: run})
	if lost == nil {
		var m received
		select {
		case m = <-p.answers:
		case <-time.After(runPatience):
			m.err = fmt.Errorf("no answer within %v", runPatience)
		}
		switch {
		case m.err != nil:
			lost = m.err
		case m.Type == agreement.TypeOutcome:
			if err := p.conn.Send(agreement.Message{Type: agreement.TypeDone}); err != nil {
				p.opts.Logger.Debug("telling the destination that its answer arrived", "error", err)
			}
			return m.Message
		case m.Type == agreement.TypeFailed: // sent before run arrived: it decides
			return agreement.Message{Outcome: agreement.Stays, Reason: m.Reason}
		default:
			lost = orderError(m.Type, agreement.TypeOutcome)
		}
	}
	p.opts.Logger.Warn("the connection broke when the machine was handed over; asking the destination what became of the machine", "error", lost)
	return p.inquire(ctx, lost)
}

// runPatience bounds the wait for the answer to run.
const runPatience = time.Minute

// sourceReason says why the destination does not take the machine.
func sourceReason(m received) string {
	switch {
	case m.err != nil:
		return fmt.Sprintf("the destination is lost: %v", m.err)
	case m.Type == agreement.TypeFailed:
		return m.Reason
	}
	return orderError(m.Type, agreement.TypeOutcome).Error()
}

// inquire asks the destination for the outcome.
func (p *remotePeer) inquire(ctx context.Context, lost error) agreement.Message {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Inquiry)
	defer cancel()
	for {
		m, err := p.inquireOnce(ctx)
		if err == nil {
			return m
		}
		if sleep.For(ctx, 500*time.Millisecond) != nil {
			return agreement.Message{Outcome: agreement.Unknown, Reason: fmt.Sprintf("%v (asked for %v: %v)", lost, p.opts.Inquiry, err)}
		}
	}
}

func (p *remotePeer) inquireOnce(ctx context.Context) (agreement.Message, error) {
	conn, err := p.talk(ctx, 0)
	if err != nil {
		return agreement.Message{}, err
	}
	defer conn.Close()
	return ask(ctx, conn, agreement.Message{Type: agreement.TypeInquiry, Token: p.token}, agreement.TypeOutcome)
}

// stop ends the links.
func (p *remotePeer) stop(why error) {
	p.stopOnce.Do(func() {
		if why != nil && p.conn != nil && !p.handed {
			p.conn.Send(agreement.Message{Type: agreement.TypeFailed, Reason: why.Error()})
		}
		p.carry()
		p.end()
		p.carrying.Wait()
	})
}

func (p *remotePeer) close(context.Context) {
	p.end()
	if p.conn != nil {
		p.conn.Close()
	}
	p.carrying.Wait()
	p.running.Wait()
	if p.relay != nil {
		p.relay.Close()
	}
}
