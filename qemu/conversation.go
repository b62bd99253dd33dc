package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/qemu/agreement"
	"github.com/vmferry/vmferry/relay"
)

// conversation is a destination's conversation with one source.
type conversation struct {
	*accept
	conn    *agreement.Conn
	began   time.Time
	source  agreement.Description
	token   agreement.Token
	verdict *verdict
	// inquired is closed when the source asks for the outcome over another connection.
	inquired chan struct{}
	once     sync.Once
	// over says that this QEMU takes no other migration, or that the sources differ.
	over bool
}

var (
	// errSourceGone says that the source ended the migration, or its connection broke.
	errSourceGone = errors.New("the source ended the migration")
	errInquired   = errors.New("the source has lost the connection and asked where the machine runs; it runs there")
)

// sourcePatience bounds the wait for what a source sends at once.
const sourcePatience = 2 * time.Minute

// run has the conversation. The end of ctx fails the migration.
func (c *conversation) run(ctx context.Context) (*AcceptResult, error) {
	defer c.conn.Close()
	c.report("compare")
	channels, again, err := c.compare(ctx)
	if again || err != nil {
		return nil, err
	}
	if err := c.awaitPrepare(ctx); err != nil {
		return nil, err
	}
	c.over = true
	if err := c.prepare(ctx); err != nil {
		return nil, c.fail(ctx, err)
	}
	c.token = c.listener.ExpectLinks(channels + 1)
	var running sync.WaitGroup
	defer running.Wait()
	talking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	c.inquired = make(chan struct{})
	running.Go(func() { c.answerOthers(talking, &running) })
	if err := c.conn.Send(agreement.Message{Type: agreement.TypeReady, Token: c.token}); err != nil {
		return nil, c.fail(ctx, err)
	}
	in := make(chan received)
	running.Go(func() { receiveAll(talking, c.conn, in) })
	r, err := relay.New(c.opts.Relay)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	// The links carry QEMU's answer to the source, too, after the machine is loaded.
	endCarrying := c.startCarrying(ctx, r)
	defer endCarrying()
	state, err := c.load(ctx, in)
	if err != nil {
		endCarrying()
		return nil, withReasonOfSource(c.fail(ctx, err), err, in)
	}
	return c.takeOver(ctx, in, state)
}

// compare answers the source's description. again says that the source wanted no more.
func (c *conversation) compare(ctx context.Context) (channels int, again bool, err error) {
	m, err := c.expect(ctx, agreement.TypeHello)
	if err != nil {
		return 0, false, err
	}
	c.source = *m.Description
	found, err := c.compareWith(ctx, m.Description, m.Channels)
	if err != nil {
		c.over = true
		return 0, false, c.fail(ctx, err)
	}
	if err := c.conn.Send(agreement.Message{Type: agreement.TypeAnswer, Description: c.side.description, Differences: found.differences, Remarks: found.remarks}); err != nil {
		return 0, false, err
	}
	for _, remark := range found.remarks {
		c.logger.Warn("the destination differs from the source", "difference", remark)
	}
	if m.DryRun {
		c.logger.Info("a source compared its machine with this one (--dry-run)", "source", c.conn.RemoteAddr(), "differences", len(found.differences))
		return 0, true, nil
	}
	if len(found.differences) > 0 {
		c.over = true
		return 0, false, &MismatchError{Differences: found.differences, migration: true}
	}
	return m.Channels, false, nil
}

// expect receives a message of that type.
func (c *conversation) expect(ctx context.Context, want agreement.Type) (agreement.Message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sourcePatience, fmt.Errorf("the source sends no %q within %v", want, sourcePatience))
	defer cancel()
	return receiveType(ctx, c.conn, want, sourceFailed)
}

// sourceFailed is the error of a source that says why it ends the migration.
func sourceFailed(m agreement.Message) error {
	return fmt.Errorf("%w: %s", errSourceGone, termtext.Text(m.Reason))
}

func (c *conversation) awaitPrepare(ctx context.Context) error {
	_, err := c.expect(ctx, agreement.TypePrepare)
	return err
}

// fail decides that the machine does not run here, says so to the source, and returns
// err with the state of this QEMU.
func (c *conversation) fail(ctx context.Context, err error) error {
	c.verdict.never(err.Error())
	c.conn.Send(agreement.Message{Type: agreement.TypeFailed, Reason: err.Error()})
	if c.prepared {
		return fmt.Errorf("%w; the machine does not run here, and %s", err, c.describeState(ctx))
	}
	return err
}

// loadResult is the end of the loading at QEMU.
type loadResult struct {
	state string
	err   error
}

// load waits until QEMU has loaded the machine, or the source gives up.
func (c *conversation) load(ctx context.Context, in <-chan received) (string, error) {
	var running sync.WaitGroup
	defer running.Wait()
	loading, give := context.WithCancelCause(ctx)
	defer give(nil)
	loaded := make(chan loadResult, 1)
	running.Go(func() {
		state, err := c.loaded(loading)
		loaded <- loadResult{state, err}
	})
	ticks := time.NewTicker(500 * time.Millisecond)
	defer ticks.Stop()
	for {
		select {
		case l := <-loaded:
			if l.err != nil && loading.Err() != nil {
				return "", context.Cause(loading) // the reason, in place of the question to QEMU that it ended
			}
			return l.state, l.err
		case m := <-in:
			// The source sends nothing more before the machine is loaded, unless it gives up.
			give(sourceGone(m))
			in = nil
		case <-c.inquired:
			give(errInquired)
		case <-ticks.C:
			c.report("memory")
		}
	}
}

// reasonPatience bounds the wait for the reason of a source whose QEMU has ended its
// connections.
const reasonPatience = time.Second

// withReasonOfSource adds the source's reason to the error of QEMU, which failed because
// the source ended its connections. failure is that of QEMU.
func withReasonOfSource(err, failure error, in <-chan received) error {
	if !errors.Is(failure, errLoad) {
		return err
	}
	select {
	case m := <-in:
		if m.err == nil && m.Type == agreement.TypeFailed && !strings.Contains(m.Reason, errLoad.Error()) {
			return fmt.Errorf("%w (the source gave up: %s)", err, termtext.Text(m.Reason))
		}
	case <-time.After(reasonPatience):
	}
	return err
}

// sourceGone says why a migration ends at which the source sent that.
func sourceGone(m received) error {
	switch {
	case m.err != nil:
		return fmt.Errorf("%w: %w", errSourceGone, m.err)
	case m.Type == agreement.TypeFailed:
		return sourceFailed(m.Message)
	}
	return orderError(m.Type, agreement.TypeRun)
}

// startCarrying carries links to QEMU until the returned function is called.
func (c *conversation) startCarrying(ctx context.Context, r *relay.Relay) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { c.carry(ctx, r, &running) })
	return sync.OnceFunc(func() {
		cancel()
		running.Wait()
		r.Close()
	})
}

// carry carries links until ctx ends.
func (c *conversation) carry(ctx context.Context, r *relay.Relay, running *sync.WaitGroup) {
	for {
		select {
		case link := <-c.listener.Links():
			running.Go(func() {
				if err := r.Destination(ctx, link, c.dial); err != nil && ctx.Err() == nil {
					c.logger.Debug("a connection to QEMU ended", "error", err)
				}
			})
		case <-ctx.Done():
			return
		}
	}
}
