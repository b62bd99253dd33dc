package iaamodel

import (
	"slices"
	"time"

	"github.com/vmferry/vmferry/iaa"
)

// device is an accelerator. Machine.mu guards it.
type device struct {
	m       *Machine
	name    string
	cfg     Device
	queues  []*queue
	pending []*job // in the queues
	idle    int    // engines without a job, in virtual time

	nextFree time.Duration // when the device's shared bandwidth is free again
	spare    []*scratch

	unit    *iommu        // with Config.IOMMU
	tlb     tlb           // with Config.IOMMU
	stalled time.Duration // for flushes of the TLB, in all
	blocked time.Duration // when the last flush of the TLB ends
}

// reorder is how many pending jobs an engine chooses from: jobs need not start
// in the order of their submission.
const reorder = 4

// next takes a job from the queues.
func (d *device) next() *job {
	i := d.m.rng.IntN(min(len(d.pending), reorder))
	j := d.pending[i]
	d.pending = append(d.pending[:i], d.pending[i+1:]...)
	j.q.waiting--
	return j
}

// dispatch gives pending jobs to engines. Machine.mu is held.
func (d *device) dispatch() {
	if d.m.cfg.Clock == nil {
		d.m.wake.Broadcast()
		return
	}
	for d.idle > 0 && len(d.pending) > 0 {
		d.idle--
		d.simulate(d.next())
	}
}

// engine is the goroutine of one engine, without a clock.
func (d *device) engine() {
	m := d.m
	s := new(scratch)
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		for len(d.pending) == 0 && !m.closed {
			m.wake.Wait()
		}
		if m.closed {
			return
		}
		j := d.next()
		if j.action.Fate == FateHang {
			for !m.released {
				m.wake.Wait()
			}
			m.retire(j)
			continue
		}
		m.mu.Unlock()
		o := m.run(j, s)
		if j.action.Delay == 0 {
			m.complete(j, o)
			m.mu.Lock()
			continue
		}
		// The engine goes on; its scratch memory stays with the late job.
		s = new(scratch)
		m.delayed.Go(func() {
			time.Sleep(j.action.Delay)
			m.complete(j, o)
		})
		m.mu.Lock()
	}
}

// complete counts the outcome, makes it visible and removes the job.
func (m *Machine) complete(j *job, o *outcome) {
	m.mu.Lock()
	m.countOutcome(o)
	// From the moment the status is written, the driver may use the memory.
	m.disown(j)
	m.mu.Unlock()
	m.commit(j, o)
	m.mu.Lock()
	m.retire(j)
	m.mu.Unlock()
}

func (m *Machine) countOutcome(o *outcome) {
	switch o.completion.Status.Class() {
	case iaa.StatusReadFault, iaa.StatusInvalidRead:
		m.stats.Faults++
	}
	if o.stall > 0 {
		m.stats.Resolved++
		m.stats.FaultStall += o.stall
	}
}

func (m *Machine) retire(j *job) {
	m.disown(j)
	j.q.finished(j)
	m.wake.Broadcast()
}

// simulate runs a job on an engine in virtual time. Its results appear when its
// time is over. Machine.mu is held.
func (d *device) simulate(j *job) {
	m := d.m
	if j.action.Fate == FateHang {
		return // so its engine stays occupied
	}
	s := d.scratch()
	m.mu.Unlock()
	o := m.run(j, s)
	m.mu.Lock()
	m.countOutcome(o)
	d.later(d.reached(o), func() { d.compute(j, o, s) })
}

// later calls f when a time has passed for an engine, with Machine.mu held: at once if the
// time is 0.
func (d *device) later(wait time.Duration, f func()) {
	if wait == 0 {
		f()
		return
	}
	d.m.stats.Busy += wait
	d.m.cfg.Clock.after(wait, func() {
		d.m.mu.Lock()
		defer d.m.mu.Unlock()
		f()
	})
}

// reached returns how long the engine of a job waits until its addresses are translated and
// their pages present.
func (d *device) reached(o *outcome) time.Duration {
	m := d.m
	if m.cfg.IOMMU == nil {
		return 0
	}
	now := m.cfg.Clock.Now()
	translation := time.Duration(o.translations) * m.cfg.IOMMU.Translation
	m.stats.Translation.Translations += o.translations
	m.stats.Translation.TranslationTime += translation
	at := now + translation
	if o.requests > 0 {
		answered := d.request(at, o)
		m.stats.Resolved++
		m.stats.FaultStall += answered - at
		at = answered
	}
	return at - now
}

// compute takes the time of a job whose memory is reached, and completes the job.
func (d *device) compute(j *job, o *outcome, s *scratch) {
	now := d.m.cfg.Clock.Now()
	begin := max(now, d.blocked)
	d.m.stats.Translation.FlushStall += begin - now
	d.finish(j, o, s, d.until(begin, o)+j.action.Delay-now, d.stalled)
}

// finish completes a job after a time, which flushes of the device's TLB prolong. The device had
// stalled for a time before.
func (d *device) finish(j *job, o *outcome, s *scratch, wait, stalled time.Duration) {
	m := d.m
	m.stats.Busy += wait
	m.cfg.Clock.after(wait, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if more := d.stalled - stalled; more > 0 {
			m.stats.Translation.FlushStall += more
			d.finish(j, o, s, more, d.stalled)
			return
		}
		m.mu.Unlock()
		m.commit(j, o)
		m.mu.Lock()
		m.retire(j)
		d.spare = append(d.spare, s)
		d.idle++
		d.dispatch()
	})
}

// inUse reports whether a process has a queue of the device open.
func (d *device) inUse() bool {
	return slices.ContainsFunc(d.queues, func(q *queue) bool { return q.opened > 0 })
}

func (d *device) scratch() *scratch {
	if n := len(d.spare); n > 0 {
		s := d.spare[n-1]
		d.spare = d.spare[:n-1]
		return s
	}
	return new(scratch)
}

// until returns when the outcome of a job that an engine begins now is ready.
func (d *device) until(now time.Duration, o *outcome) time.Duration {
	t := d.m.cfg.Timing
	if o.completion.Status.Class() == iaa.StatusReadFault {
		return now + d.vary(t.FaultReport)
	}
	end := now + d.vary(t.Operation+time.Duration(t.PerByte*float64(o.work))) + o.stall
	if t.DeviceRate > 0 {
		d.nextFree = max(now, d.nextFree) + time.Duration(float64(o.work)/t.DeviceRate*1e9)
		end = max(end, d.nextFree)
	}
	return end
}

func (d *device) vary(t time.Duration) time.Duration {
	j := d.m.cfg.Timing.Jitter
	return time.Duration(float64(t) * (1 + j*(2*d.m.rng.Float64()-1)))
}

// faultTime draws the time that n page faults take, one after the other.
func (m *Machine) faultTime(n int) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	var t time.Duration
	for range n {
		t += draw(m.rng, PublishedIOMMU.Request)
	}
	return t
}
