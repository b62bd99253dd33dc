package iaa

import (
	"context"
	"fmt"
	"time"
	"unsafe"
)

// drainTries is how many DRAINs a session may have outstanding on a queue: one
// whose completion is lost, for example to a page fault on its record, must not
// keep the queue's lost slots forever.
const drainTries = 4

// drain is a session's DRAIN descriptors for one queue. Each completes once every
// job that was submitted to the queue before it is off the device.
type drain struct {
	q     *queue
	tries [drainTries]drainTry
	seq   int // submitted so far: each covers the jobs lost before it
}

type drainTry struct {
	rec     *Record
	desc    *Descriptor
	active  bool
	seq     int
	started time.Duration
}

func recordBytes(r *Record) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), DescriptorSize)
}

// Reclaim takes back lost slots without waiting and returns how many are still lost. A
// slot is free again when its job has completed late, when a DRAIN has shown that the
// device no longer has the job, or when the kernel has stopped the queue.
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

// advance collects the queue's drains, and starts one if lost jobs need it.
func (s *Session) advance(d *drain) {
	best := 0
	for i := range d.tries {
		t := &d.tries[i]
		if !t.active {
			continue
		}
		c := t.rec.Load()
		if c.Status == StatusPending && !d.q.stopped.Load() {
			continue
		}
		d.end(t)
		if c.Status == StatusSuccess {
			best = max(best, t.seq)
		}
	}
	for i := range d.tries { // a drain also waits for the drains before it
		if t := &d.tries[i]; t.active && t.seq < best {
			d.end(t)
		}
	}
	wanted := false
	for i := range s.jobs {
		j := &s.jobs[i]
		if j.state != stateLost || j.q != d.q {
			continue
		}
		if j.lostAt < best {
			s.recover(j)
			continue
		}
		wanted = true
	}
	if wanted {
		s.start(d)
	}
}

func (d *drain) end(t *drainTry) {
	t.active = false
	d.q.released()
}

// active is the number of drains that have not completed.
func (d *drain) active() int {
	n := 0
	for i := range d.tries {
		if d.tries[i].active {
			n++
		}
	}
	return n
}

// start submits a drain, unless one is active that has not timed out.
func (s *Session) start(d *drain) {
	now := s.sys.Now()
	var free *drainTry
	for i := range d.tries {
		t := &d.tries[i]
		if !t.active {
			free = t
		} else if now-t.started < s.dev.opts.JobTimeout {
			return
		}
	}
	if free == nil {
		return
	}
	s.sys.Touch(&free.rec.word, true)
	free.rec.clear()
	*free.desc = Descriptor{Record: address(recordBytes(free.rec))}
	free.desc.SetOp(OpDrain, FlagRecordValid|FlagRequestCompletion)
	if d.q.submit(free.desc) == nil {
		d.seq++
		free.active, free.seq, free.started = true, d.seq, now
	}
}

func (s *Session) recover(j *job) {
	j.q.released()
	j.state = stateIdle
	s.lost--
	s.count.reclaimed.Add(1)
}

// AwaitLostJobs returns when no slot is lost any more, so that no job that timed out
// can still write to memory. It waits for at most Options.DrainTimeout; then the error
// wraps ErrUndrained. It does not wait for jobs that are still running.
func (s *Session) AwaitLostJobs(ctx context.Context) error {
	return s.waitFor(ctx, s.Reclaim)
}

// Drain returns when no device has a job of the session any more. It waits for at most
// Options.DrainTimeout; then the error wraps ErrUndrained. Results of jobs that ended
// remain to be polled. Jobs that wait for room in a queue are not on a device.
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
			n += s.drains[i].active()
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
