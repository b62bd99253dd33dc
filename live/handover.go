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
	// ErrUndecided is wrapped when the source told the destination to run, and
	// then could neither learn that it does nor that it does not. The machine
	// stands still at the source, whole: look at the destination, and resume
	// the source if that does not run.
	ErrUndecided = errors.New("handover: unknown whether the machine runs at the destination")
	// ErrSourceGone is wrapped when the source went away, or took the machine
	// back, before it let the destination run.
	ErrSourceGone = errors.New("the source did not hand over")
)

const (
	defaultAnswer  = 10 * time.Minute
	defaultInquiry = 2 * time.Minute
)

// handover is the destination's side of one.
type handover struct {
	cfg *ReceiveConfig
	in  *migration.Inbound
	log *slog.Logger
}

// run starts the machine when the source gives it up, and answers the source.
func (h *handover) run() error {
	v := newVerdict(func() { h.in.SetReadDeadline(time.Unix(1, 0)) })
	serve, err := h.in.Reopen(maxInquiries)
	if err != nil {
		h.log.Warn("a source that loses its connections now cannot ask here", "error", err)
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
	// The machine runs here, and the source does not know yet.
	h.log.Warn("the machine runs here, but the source is gone; an inquiry of the source is answered")
	answering.wait(h.in.Context(), answer)
	return nil
}

// awaitRun says that this side is prepared, and waits for the source's word. A nil
// error means that this side runs the machine, and no other does.
func (h *handover) awaitRun(v *verdict) error {
	err := h.in.Pong(vmstate.HandoverPrepared)
	var word uint32
	for err == nil && word != vmstate.HandoverRun && word != vmstate.HandoverAbort {
		var c vmstate.Command
		if c, err = h.in.NextCommand(); err == nil {
			word, _ = c.PingValue()
		}
	}
	ctx := h.in.Context()
	switch {
	case err == nil && word == vmstate.HandoverAbort:
		v.refuse()
		return fmt.Errorf("%w: it failed on its side, and goes on there", ErrSourceGone)
	case err != nil && !v.isUndecided():
	case err != nil && ctx.Err() == nil && h.cfg.SourceLost != nil && h.cfg.SourceLost(err):
	case err != nil:
		v.refuse()
		return cause.Of(ctx, fmt.Errorf("%w: everything had arrived when its connection broke: %w", ErrSourceGone, err), nil, "")
	}
	if !v.commit() {
		return fmt.Errorf("%w: it asked over a new connection, and the answer was that this side does not run", ErrSourceGone)
	}
	return nil
}

// awaitGone waits for the source to say that no inquiry will come.
func (h *handover) awaitGone() bool {
	for {
		c, err := h.in.NextCommand()
		if err != nil {
			return false
		}
		if word, _ := c.PingValue(); word == vmstate.HandoverGone {
			return true
		}
	}
}
