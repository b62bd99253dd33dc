package live

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vmferry/vmferry/internal/cause"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/vmstate"
)

var (
	// ErrUndecided is wrapped when the source has sent HandoverRun and cannot find
	// out whether the destination runs the machine. The machine is paused and
	// complete at the source: check the destination, and resume the source if the
	// destination does not run the machine.
	ErrUndecided = errors.New("live: unknown whether the machine runs at the destination")
	// ErrSourceGone is wrapped when the source disconnects or aborts before it sends
	// HandoverRun.
	ErrSourceGone = errors.New("live: the source did not hand over the machine")
)

const (
	defaultAnswer  = 10 * time.Minute
	defaultInquiry = 2 * time.Minute
)

// handover is the destination's side of a handover.
type handover struct {
	cfg *ReceiveConfig
	in  *migration.Inbound
	log *slog.Logger
}

// run starts the machine after the source's HandoverRun, and reports the result.
func (h *handover) run() error {
	v := newVerdict(func() { h.in.SetReadDeadline(time.Unix(1, 0)) })
	serve, err := h.in.Reopen(maxInquiries)
	if err != nil {
		h.log.Warn("accepting inquiries failed: a source that loses its connections cannot inquire", "error", err)
	}
	inquiries := inquiries{uuid: h.in.Received().UUID, tls: h.cfg.TLS, log: h.log, verdict: v}
	answering := inquiries.answer(h.in.Context(), serve)
	defer answering.stop()
	if err := h.awaitRun(v); err != nil {
		h.in.Shut(false)
		return err
	}
	err = h.cfg.Start(h.in.Received())
	v.finish(err == nil)
	shutErr := h.in.Shut(err == nil)
	if err != nil {
		return fmt.Errorf("starting the machine: %w", err)
	}
	h.in.Received().Verified = true
	answer := h.cfg.Answer
	if answer <= 0 {
		answer = defaultAnswer
	}
	h.in.SetReadDeadline(time.Now().Add(answer))
	if shutErr == nil && h.awaitGone() {
		return nil
	}
	// The machine runs here, and the source may not know.
	h.log.Warn("the machine runs here and the source has disconnected, waiting for its inquiry")
	answering.wait(h.in.Context(), answer)
	return nil
}

// awaitRun sends HandoverPrepared and waits for HandoverRun. After a nil error this
// side must run the machine, and the source does not.
func (h *handover) awaitRun(v *verdict) error {
	err := h.in.Pong(vmstate.HandoverPrepared)
	var code uint32
	for err == nil && code != vmstate.HandoverRun && code != vmstate.HandoverAbort {
		var c vmstate.Command
		if c, err = h.in.NextCommand(); err == nil {
			code, _ = c.PingValue()
		}
	}
	ctx := h.in.Context()
	switch {
	case err == nil && code == vmstate.HandoverAbort:
		v.refuse()
		return fmt.Errorf("%w: the source aborted, and keeps running the machine", ErrSourceGone)
	case err != nil && !v.isUndecided():
	case err != nil && ctx.Err() == nil && h.cfg.SourceLost != nil && h.cfg.SourceLost(err):
	case err != nil:
		v.refuse()
		return cause.Of(ctx, fmt.Errorf("%w: the connection broke after everything had arrived: %w", ErrSourceGone, err), nil, "")
	}
	if !v.commit() {
		return fmt.Errorf("%w: an inquiry of the source was answered that the machine does not run here", ErrSourceGone)
	}
	return nil
}

// awaitGone waits for HandoverGone. It returns false if reading fails.
func (h *handover) awaitGone() bool {
	for {
		c, err := h.in.NextCommand()
		if err != nil {
			return false
		}
		if code, _ := c.PingValue(); code == vmstate.HandoverGone {
			return true
		}
	}
}
