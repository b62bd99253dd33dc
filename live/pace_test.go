package live_test

import (
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/live"
)

const (
	// hang bounds waits for what is sure to come: only a fault lets it pass.
	hang = 5 * time.Minute
	// roundPages is how many pages each writer of a test's machine may write in a
	// round: what a round leaves does not depend on how long it takes.
	roundPages = 80
)

// pace lets the writers write so many pages each in every round, at most; pages
// is asked before each. If exactly, no round ends before they are written.
func (p *pair) pace(pages func() int, exactly bool) {
	next := func() {
		p.source.Allow(pages())
		if !exactly {
			return
		}
		if err := p.source.AwaitAllowed(hang); err != nil {
			p.t.Error(err)
		}
	}
	p.cfg.Dirty = pacedLog{p.cfg.Dirty, func() { p.source.Allow(0) }, next, p.source.AllowAll}
	p.cfg.Report = func(r live.Round) {
		p.reported = append(p.reported, r)
		if !r.Last {
			next()
		}
	}
}

// pacedLog begins the pace with the log, and ends it with the log.
type pacedLog struct {
	guest.DirtyLog
	hold, begin, end func()
}

func (l pacedLog) Start() error {
	l.hold() // what is written between Start and begin would be logged, too
	err := l.DirtyLog.Start()
	l.begin()
	return err
}

func (l pacedLog) Stop() error {
	l.end()
	return l.DirtyLog.Stop()
}

// Absent forwards what the log below knows.
func (l pacedLog) Absent(b guest.Bitmap) error {
	if log, ok := l.DirtyLog.(guest.AbsentLog); ok {
		return log.Absent(b)
	}
	return nil
}
