package migration

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/vmstate"
)

// The verified handover is a talk between Migrate and a Receive with Start, in
// PINGs of the main channel and PONGs of the return path. To other destinations
// they mean nothing, and are answered by a PONG of the same value.
//
//	source                              destination
//	wordAsk, with the return path  ──►  knows that a handover will come
//	all pages and the device state ──►  has everything, and has loaded it
//	                               ◄──  wordPrepared
//	wordRun                        ──►  may start the machine, once
//	                               ◄──  SHUT 0: it runs
//	wordGone                       ──►  nobody will ask any more
//
// Up to wordRun a source that fails goes on running, and the destination never
// starts. After wordRun a source that loses its connections does not know: it
// connects again and says wordInquire, which makes a destination that has not
// had wordRun refuse it for good, and is answered by SHUT 0 (it runs) or SHUT 1
// (it never will).
const (
	wordAsk      = 0x56464830 // "VFH0"
	wordPrepared = 0x56464831
	wordRun      = 0x56464832
	wordGone     = 0x56464833
	wordAbort    = 0x56464834
	wordInquire  = 0x56464835
	// wordStay, with the return path: the machine stays at the source.
	wordStay = 0x56464836
)

var (
	// ErrUndecided is wrapped when the source told the destination to run, and
	// then could neither learn that it does nor that it does not. The machine
	// stands still at the source, whole: look at the destination, and resume
	// the source if that does not run.
	ErrUndecided = errors.New("the destination was told to run, and it is not known whether it does")
	// ErrIncomplete is wrapped when a destination's memory has pages that the
	// source said nothing about.
	ErrIncomplete = errors.New("the memory is not complete")
	// ErrSourceGone is wrapped when the source went away, or took the machine
	// back, before it let the destination run.
	ErrSourceGone = errors.New("the source did not hand over")
)

// Handover directs the end of a migration at a destination with Start.
type Handover struct {
	// SourceLost is asked when the source has vanished without a word after
	// everything had arrived, before it let this side run. It may be dead, and
	// its machine with it; or it may run, behind a link that broke. Return
	// true only if it is known to be dead (fenced): the machine starts here.
	// Nil never starts.
	SourceLost func(cause error) bool
	// Answer is how long this side answers a source that lost its connections
	// in the last moment; 0 is ten minutes. It has to be longer than the
	// source's Inquiry and LinkTimeout together. Receive returns after that at
	// the latest, or at once where the source saw it run.
	Answer time.Duration
}

const (
	defaultAnswer  = 10 * time.Minute
	defaultInquiry = 2 * time.Minute
)

// provesDeath says whether an error of connecting proves that nobody listens
// there any more. Behind a proxy, which is somebody else, it proves nothing.
func provesDeath(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}

// wantsHandover says whether the source asked for one.
func (d *destination) wantsHandover() bool { return d.heard(wordAsk) }

// heard says whether the source sent the word.
func (d *destination) heard(word uint32) bool {
	for _, c := range d.main.Commands() {
		if w, ok := c.Word(); ok && w == word {
			return true
		}
	}
	return false
}

// handOver is the destination's side.
func (d *destination) handOver(conns *connections, received *Received) error {
	d.done.Store(true) // how the channels end does not count any more
	v := newVerdict(func() { conns.main.SetReadDeadline(time.Unix(1, 0)) })
	answering := d.answerInquiries(v, received)
	defer answering.stop()
	if err := d.awaitRun(v); err != nil {
		d.main.Shut(false)
		d.letGo(conns)
		return err
	}
	err := d.cfg.Start(received)
	v.settle(err == nil)
	shutErr := d.main.Shut(err == nil)
	if err != nil {
		d.letGo(conns)
		return fmt.Errorf("starting the machine: %w", err)
	}
	received.Verified = true
	answer := d.cfg.Handover.Answer
	if answer <= 0 {
		answer = defaultAnswer
	}
	conns.main.SetReadDeadline(time.Now().Add(answer))
	if shutErr == nil && d.heardGone() {
		return nil
	}
	// It runs here, and the source does not know yet.
	d.cfg.Logger.Warn("the machine runs here, but the source is gone; answering it should it ask")
	answering.wait(d.ctx, answer)
	return nil
}

// awaitRun says that this side is prepared, and waits for the source's word. A
// nil error means that this side runs, and nobody else will.
func (d *destination) awaitRun(v *verdict) error {
	err := d.main.Pong(wordPrepared)
	var word uint32
	for err == nil && word != wordRun && word != wordAbort {
		var c vmstate.Command
		if c, err = d.main.NextCommand(); err == nil {
			word, _ = c.Word()
		}
	}
	switch {
	case err == nil && word == wordAbort:
		v.refuse()
		return fmt.Errorf("%w: it failed on its side, and goes on there", ErrSourceGone)
	case err != nil && !v.isOpen():
	case err != nil && d.ctx.Err() == nil && d.cfg.Handover.SourceLost != nil && d.cfg.Handover.SourceLost(err):
	case err != nil:
		v.refuse()
		return withCause(d.ctx, fmt.Errorf("%w: everything had arrived when its connection broke: %w", ErrSourceGone, err))
	}
	if !v.commit() {
		return fmt.Errorf("%w: it asked over a new connection, and was told that this side does not run", ErrSourceGone)
	}
	return nil
}

// heardGone waits for the source to say that it has given up.
func (d *destination) heardGone() bool {
	for {
		c, err := d.main.NextCommand()
		if err != nil {
			return false
		}
		if word, _ := c.Word(); word == wordGone {
			return true
		}
	}
}

// complete checks that the source named every page of guest memory.
func (d *destination) complete() error {
	if d.named == nil {
		return fmt.Errorf("%w: the source asked for a handover after its memory had begun to come, so that what came is not known", ErrIncomplete)
	}
	return d.named.complete()
}

// deadliner is a listener that can be told to stop accepting for a while. One
// that cannot would have to be closed, which a source takes for death.
type deadliner interface{ SetDeadline(time.Time) error }

// checkStart checks what a destination with Start needs.
func checkStart(ln net.Listener) error {
	if _, ok := ln.(deadliner); !ok {
		return fmt.Errorf("receiving with Start needs a listener that has SetDeadline, as those of package net have; %T has not (TLS goes into ReceiveConfig)", ln)
	}
	return nil
}
