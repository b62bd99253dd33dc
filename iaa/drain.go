package iaa

import (
	"context"
	"fmt"
	"unsafe"
)

// drain is a session's DRAIN descriptor for one queue. It completes once every
// job that was submitted to the queue before it is off the device.
type drain struct {
	q      *queue
	rec    *Record
	desc   *Descriptor
	active bool
	seq    int // drains submitted so far: one covers the jobs lost before it
}

func recordBytes(r *Record) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), DescriptorSize)
}

// Reclaim looks after lost slots without waiting and returns how many are still
// lost. A slot comes back when its job has completed after all, when a DRAIN has
// shown that the device no longer has it, or when the kernel has stopped the queue.
func (s *Session) Reclaim() int {
	for i := range s.jobs {
		if s.lost == 0 {
			break
		}
		j := &s.jobs[i]
		if j.state == stateLost && (j.rec.Load().Status != StatusPending || j.q.stopped.Load()) {
			s.recover(j)
		}
	}
	for i := range s.drains {
		s.advance(&s.drains[i])
	}
	return s.lost
}

// advance starts a drain where lost jobs wait for one, and collects it.
func (s *Session) advance(d *drain) {
	if d.active {
		c := d.rec.Load()
		if c.Status == StatusPending && !d.q.stopped.Load() {
			return
		}
		d.active = false
		d.q.released()
		if c.Status == StatusSuccess {
			s.drained(d)
		}
	}
	for i := range s.jobs {
		if j := &s.jobs[i]; j.state == stateLost && j.q == d.q {
			s.start(d)
			return
		}
	}
}

func (s *Session) start(d *drain) {
	d.rec.clear()
	*d.desc = Descriptor{Record: address(recordBytes(d.rec))}
	d.desc.SetOp(OpDrain, FlagRecordValid|FlagRequestCompletion)
	if d.q.submit(d.desc) == nil {
		d.active = true
		d.seq++
	}
}

// drained frees the slots whose jobs were lost before the drain was submitted.
func (s *Session) drained(d *drain) {
	for i := range s.jobs {
		if j := &s.jobs[i]; j.state == stateLost && j.q == d.q && j.lostAt < d.seq {
			s.recover(j)
		}
	}
}

func (s *Session) recover(j *job) {
	j.q.released()
	j.state = stateIdle
	s.lost--
	s.count.reclaimed.Add(1)
}

// Settle waits until no slot is lost any more, so that no job that was given up
// can still write anywhere. It waits for at most Options.DrainTimeout; then the
// error answers to ErrUndrained. Jobs that are still running are not its concern.
func (s *Session) Settle(ctx context.Context) error {
	return s.waitFor(ctx, s.Reclaim)
}

// Drain waits until no device has a job of the session any more, for at most
// Options.DrainTimeout; then the error answers to ErrUndrained. Results of jobs
// that ended stay to be collected. Jobs that wait for room in a queue are not on
// a device.
func (s *Session) Drain(ctx context.Context) error {
	return s.waitFor(ctx, func() int {
		running := 0
		for i := range s.jobs {
			j := &s.jobs[i]
			if j.state != stateRunning || j.rec.Load().Status != StatusPending {
				continue
			}
			if j.unread = s.overdue(j); j.unread == nil {
				running++
			}
		}
		return running + s.Reclaim()
	})
}

// waitFor calls left until it and the number of active drains are 0.
func (s *Session) waitFor(ctx context.Context, left func() int) error {
	start := s.sys.Now()
	for round := 0; ; round++ {
		n := left()
		for i := range s.drains {
			if s.drains[i].active {
				n++
			}
		}
		if n == 0 {
			return nil
		}
		if took := s.sys.Now() - start; ctx.Err() != nil || took > s.dev.opts.DrainTimeout {
			return fmt.Errorf("%w: %d of %d slots, after %v", ErrUndrained, n, len(s.jobs), took)
		}
		s.sys.Relax(nil, 0, round)
	}
}
