package iaamodel

import (
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
	now := m.cfg.Clock.Now()
	end := d.until(now, o) + j.action.Delay
	m.stats.Busy += end - now
	m.cfg.Clock.after(end-now, func() {
		m.commit(j, o)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.retire(j)
		d.spare = append(d.spare, s)
		d.idle++
		d.dispatch()
	})
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

// faultBuckets is the published histogram of the time the kernel takes for a page
// fault of a device: how many, and the range in microseconds. The highest bucket
// ends where the mean comes out at the published 9 us; the longest one seen was
// 556 us.
var faultBuckets = []struct{ count, from, to int }{
	{25206, 1, 8},
	{364, 10, 100},
	{395, 100, 420},
}

// faultTime draws the time that n page faults take, one after the other.
func (m *Machine) faultTime(n int) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := 0
	for _, b := range faultBuckets {
		total += b.count
	}
	var t time.Duration
	for range n {
		pick := m.rng.IntN(total)
		for _, b := range faultBuckets {
			if pick -= b.count; pick < 0 {
				t += time.Duration(b.from*1000+m.rng.IntN((b.to-b.from)*1000)) * time.Nanosecond
				break
			}
		}
	}
	return t
}
