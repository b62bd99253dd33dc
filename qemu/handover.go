package qemu

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/qemu/agreement"
)

// takeOver reports to the source that the machine is loaded, and takes the machine over
// when the source says so. It returns when the source has learned the outcome, or has had the
// time to ask for it.
func (c *conversation) takeOver(ctx context.Context, in <-chan received, state string) (*AcceptResult, error) {
	c.report("loaded")
	if err := c.conn.Send(agreement.Message{Type: agreement.TypeLoaded, RunState: state}); err != nil {
		return nil, c.stay(ctx, fmt.Errorf("%w: %w", errSourceGone, err))
	}
	var m received
	select {
	case m = <-in:
	case <-c.inquired:
		return nil, c.stay(ctx, errInquired)
	case <-ctx.Done():
		return nil, c.stay(ctx, context.Cause(ctx))
	case <-time.After(sourcePatience):
		return nil, c.stay(ctx, fmt.Errorf("%w: it does not hand the machine over within %v", errSourceGone, sourcePatience))
	}
	switch {
	case m.err != nil || m.Type != agreement.TypeRun:
		return nil, c.stay(ctx, sourceGone(m))
	case !c.verdict.allow():
		return nil, c.stay(ctx, errInquired)
	}
	outcome := c.runMachine(ctx, m.Run)
	c.verdict.set(outcome)
	sent := c.conn.Send(outcome)
	c.report("runs")
	confirmed := sent == nil && c.awaitDone(in)
	switch outcome.Outcome {
	case agreement.Stays:
		return nil, fmt.Errorf("%s; the machine does not run here, and %s", termtext.Text(outcome.Reason), c.describeState(ctx))
	case agreement.Unknown:
		return nil, fmt.Errorf("%w: %s (ask this QEMU: QMP query-status)", ErrUndecided, termtext.Text(outcome.Reason))
	}
	if !confirmed {
		c.logger.Warn("the machine is this host's, and the source may not have learned it: the source leaves its copy paused", "run_state", outcome.RunState)
	}
	return &AcceptResult{
		Source: c.conn.RemoteAddr().String(), SourceQEMU: termtext.Text(c.source.QEMU), QEMU: fmt.Sprint(c.vm.Version()), Machine: c.side.description.Machine,
		Total: time.Since(c.began), RunState: outcome.RunState, Runs: atDestination, Confirmed: confirmed,
	}, nil
}

// stay decides that the machine never runs here, and answers a source that asks for the
// time of AcceptOptions.Inquiry: the source may have sent run. It returns err with the
// state of this QEMU.
func (c *conversation) stay(ctx context.Context, err error) error {
	err = c.fail(ctx, err)
	if errors.Is(err, errSourceGone) {
		c.awaitInquiry()
	}
	return err
}

// awaitInquiry gives the source the time to ask, and to get an answer.
func (c *conversation) awaitInquiry() {
	select {
	case <-c.inquired:
		// The answer is on its way: see answerInquiry.
	case <-time.After(c.opts.Inquiry):
	}
}

// awaitDone waits until the source has learned the outcome: it says so, or it asked over
// another connection. It is false if neither happened in time.
func (c *conversation) awaitDone(in <-chan received) bool {
	late := time.After(c.opts.Inquiry)
	for {
		select {
		case m := <-in:
			if m.err == nil && m.Type == agreement.TypeDone {
				return true
			}
			in = nil // an inquiry may follow
		case <-c.inquired:
			return true
		case <-late:
			return false
		}
	}
}

// answerOthers answers the control connections that arrive during a conversation: a
// source that has lost its connection asks for the outcome. It returns when ctx ends.
func (c *conversation) answerOthers(ctx context.Context, running *sync.WaitGroup) {
	const most = 8 // at a time
	slots := make(chan struct{}, most)
	for {
		select {
		case conn, open := <-c.listener.Controls():
			if !open {
				return
			}
			select {
			case slots <- struct{}{}:
			default:
				conn.Close()
				continue
			}
			running.Go(func() {
				defer func() { <-slots }()
				defer conn.Close()
				c.answerInquiry(ctx, conn)
			})
		case <-ctx.Done():
			return
		}
	}
}

// answerInquiry answers a source that asks for the outcome, and refuses another one. An
// inquiry before run decides that the machine stays at the source.
func (c *conversation) answerInquiry(ctx context.Context, conn *agreement.Conn) {
	short, cancel := context.WithTimeout(ctx, c.opts.Inquiry)
	defer cancel()
	m, err := conn.Receive(short)
	if err != nil {
		return
	}
	if m.Type != agreement.TypeInquiry || !m.Token.Equal(c.token) {
		conn.Send(agreement.Message{Type: agreement.TypeFailed, Reason: "another migration is under way"})
		return
	}
	c.verdict.never(errInquired.Error())
	outcome, err := c.verdict.await(short)
	if err != nil {
		outcome = agreement.Message{Type: agreement.TypeOutcome, Outcome: agreement.Unknown, Reason: err.Error()}
	}
	if conn.Send(outcome) == nil {
		reading, cancel := context.WithTimeout(short, 5*time.Second)
		defer cancel()
		conn.Receive(reading) // until the source has read the answer and closes
	}
	c.once.Do(func() { close(c.inquired) })
}
