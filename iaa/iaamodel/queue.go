package iaamodel

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/iaa"
)

// queue is a work queue. Machine.mu guards it.
type queue struct {
	m       *Machine
	dev     *device
	name    string
	cfg     Queue
	opened  int
	waiting int             // accepted, not yet taken up by an engine
	running map[uint64]*job // accepted, not yet completed, by sequence number
	gone    []*job          // vanished: a DRAIN frees their memory
	drains  []*job
	stopped bool
	refuse  int // submissions to refuse as if full; negative means all
}

func (q *queue) capacity() int {
	if q.cfg.Mode == "shared" {
		return min(q.cfg.Threshold, q.cfg.Size)
	}
	return q.cfg.Size
}

// offer is a submission that reports acceptance: ENQCMD or the write system call.
func (q *queue) offer(d *iaa.Descriptor) bool {
	m := q.m
	switch {
	case q.stopped, q.waiting >= q.capacity():
		m.stats.Refused++
		return false
	case q.refuse != 0:
		if q.refuse > 0 {
			q.refuse--
		}
		m.stats.Refused++
		return false
	case m.cfg.Script.Submit != nil && !m.cfg.Script.Submit(q.name, d):
		m.stats.Refused++
		return false
	}
	q.accept(d)
	return true
}

// store is a submission by MOVDIR64B, which reports nothing: a descriptor is lost if
// the queue is full.
func (q *queue) store(d *iaa.Descriptor) {
	m := q.m
	switch {
	case q.stopped:
		m.stats.Dropped++
	case q.waiting >= q.capacity():
		m.stats.Dropped++
		m.violate("%s: dedicated queue of %d overrun", q.name, q.cfg.Size)
	default:
		q.accept(d)
	}
}

// accept takes a descriptor into the queue.
func (q *queue) accept(d *iaa.Descriptor) {
	m := q.m
	m.seq++
	m.stats.Accepted++
	j := &job{q: q, seq: m.seq, desc: *d}
	// The processor has just cleared the record, which made its page present.
	m.mem.set(d.Record, iaa.DescriptorSize, touched(true))
	if d.Op() == iaa.OpDrain {
		m.own(j)
		q.drains = append(q.drains, j)
		q.checkDrains()
		return
	}
	if m.cfg.Script.Run != nil && d.Op() != iaa.OpNoop {
		j.action = m.cfg.Script.Run(Job{Queue: q.name, Seq: m.seq, Desc: *d})
	}
	m.own(j)
	if j.action.Fate == FateVanish {
		m.stats.Dropped++
		q.gone = append(q.gone, j)
		return
	}
	q.running[j.seq] = j
	q.waiting++
	q.dev.pending = append(q.dev.pending, j)
	q.dev.dispatch()
}

// own records that a device may write to the job's record and destination.
func (m *Machine) own(j *job) {
	for _, addr := range j.writes() {
		if who, ok := m.busy[addr]; ok {
			m.violate("%v: memory at %#x given to a job while %v may write to it", j, addr, who)
		}
		m.busy[addr] = j
	}
}

func (m *Machine) disown(j *job) {
	for _, addr := range j.writes() {
		if m.busy[addr] == j {
			delete(m.busy, addr)
		}
	}
}

// finished removes a completed job from the queue.
func (q *queue) finished(j *job) {
	delete(q.running, j.seq)
	q.checkDrains()
}

// checkDrains completes drains whose earlier jobs have all ended.
func (q *queue) checkDrains() {
	kept := q.drains[:0]
	for _, d := range q.drains {
		if q.oldest() < d.seq {
			kept = append(kept, d)
			continue
		}
		left := q.gone[:0]
		for _, g := range q.gone {
			if g.seq < d.seq {
				q.m.disown(g)
			} else {
				left = append(left, g)
			}
		}
		q.gone = left
		status := q.m.check(q, &d.desc)
		if status == iaa.StatusPending {
			status = iaa.StatusSuccess
		}
		q.m.disown(d)
		q.m.report(d, &outcome{completion: iaa.Completion{Status: status}})
	}
	q.drains = kept
}

// oldest is the sequence number of the oldest job in progress.
func (q *queue) oldest() uint64 {
	low := ^uint64(0)
	for seq := range q.running {
		low = min(low, seq)
	}
	return low
}

// queue finds a queue by name, "wq0.0".
func (m *Machine) queue(name string) (*queue, error) {
	for _, d := range m.devices {
		for _, q := range d.queues {
			if q.name == name {
				return q, nil
			}
		}
	}
	return nil, fmt.Errorf("iaamodel: no queue %q", name)
}

// Refuse makes a queue refuse the next n submissions as if it were full, or all if n is
// negative.
func (m *Machine) Refuse(name string, n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	q, err := m.queue(name)
	if err == nil {
		q.refuse = n
	}
	return err
}

// Disable stops a queue as an administrator does: jobs on engines end, those in
// the queue are lost, and then the kernel shows it as disabled.
func (m *Machine) Disable(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	q, err := m.queue(name)
	if err != nil {
		return err
	}
	q.halt()
	return os.WriteFile(filepath.Join(m.sysfs, q.dev.name, q.name, "state"), []byte("disabled\n"), 0o644)
}

// Remove removes a device, as a surprise removal does.
func (m *Machine) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.devices {
		if d.name != name {
			continue
		}
		for _, q := range d.queues {
			q.halt()
		}
		return os.RemoveAll(filepath.Join(m.sysfs, name))
	}
	return fmt.Errorf("iaamodel: no device %q", name)
}

// halt stops the queue. Machine.mu is held, and released while engines finish.
func (q *queue) halt() {
	q.stopped = true
	kept := q.dev.pending[:0]
	for _, j := range q.dev.pending {
		if j.q != q {
			kept = append(kept, j)
			continue
		}
		q.waiting--
		delete(q.running, j.seq)
		q.m.disown(j)
		q.m.stats.Dropped++
	}
	q.dev.pending = kept
	for _, j := range q.gone {
		q.m.disown(j)
	}
	q.gone = nil
	q.awaitRunning()
}

// awaitRunning waits until only hung jobs run. Machine.mu is held, and released while
// waiting.
func (q *queue) awaitRunning() {
	m := q.m
	for len(q.running) > 0 && !q.hung() {
		if m.cfg.Clock == nil {
			m.wake.Wait()
			continue
		}
		m.mu.Unlock()
		m.cfg.Clock.idle(m.cfg.Timing.Poll)
		m.mu.Lock()
	}
}

// hung reports whether all running jobs hang.
func (q *queue) hung() bool {
	for _, j := range q.running {
		if j.action.Fate != FateHang {
			return false
		}
	}
	return true
}

// node is an opened queue: the file descriptor and, mapped, the portal.
type node struct {
	q      *queue
	mapped bool
	closed bool
}

func (n *node) fail(op string, err error) error {
	return &os.PathError{Op: op, Path: filepath.Join(n.q.m.dev, n.q.name), Err: err}
}

// Map maps the portal, or refuses it.
func (n *node) Map() (iaa.Portal, error) {
	n.q.m.mu.Lock()
	defer n.q.m.mu.Unlock()
	if n.q.cfg.RefuseMmap || n.q.cfg.Inherited {
		return nil, n.fail("mmap", unix.EPERM)
	}
	n.mapped = true
	return &portal{n}, nil
}

// Write submits as write(2) does on kernels that support it.
func (n *node) Write(descs []iaa.Descriptor) (int, error) {
	m := n.q.m
	m.charge(m.cfg.Timing.Driver+m.cfg.Timing.Write, &m.stats.Processor.Submitting)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case n.closed:
		return 0, n.fail("write", unix.EBADF)
	case n.q.stopped:
		return 0, n.fail("write", unix.ENXIO)
	case n.q.cfg.Inherited:
		return 0, n.fail("write", unix.EPERM)
	case n.q.cfg.RefuseWrite:
		return 0, n.fail("write", unix.EINVAL)
	}
	for i := range descs {
		if descs[i].Record%iaa.DescriptorSize != 0 {
			return i, n.fail("write", unix.EINVAL)
		}
		if n.q.cfg.Mode == "dedicated" {
			n.q.store(&descs[i])
			continue
		}
		if !n.q.offer(&descs[i]) {
			if i > 0 {
				return i, nil
			}
			return 0, n.fail("write", unix.EAGAIN)
		}
	}
	return len(descs), nil
}

// Close closes the node. Like the kernel it waits for jobs in progress, but not
// for hung ones, whose memory it takes from the device.
func (n *node) Close() error {
	m := n.q.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.closed {
		return n.fail("close", unix.EBADF)
	}
	n.closed = true
	n.q.opened--
	n.q.awaitRunning()
	for _, j := range n.q.running {
		m.disown(j)
	}
	for _, j := range append(n.q.gone, n.q.drains...) {
		m.disown(j)
	}
	n.q.gone, n.q.drains = nil, nil
	return nil
}

// portal is a mapped portal page.
type portal struct{ n *node }

// Enqueue is ENQCMD.
func (p *portal) Enqueue(slot int, d *iaa.Descriptor) bool {
	m := p.n.q.m
	m.charge(m.cfg.Timing.Driver+m.cfg.Timing.Enqcmd, &m.stats.Processor.Submitting)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !p.usable(slot, "ENQCMD", "shared") {
		return false
	}
	return p.n.q.offer(d)
}

// Store is MOVDIR64B.
func (p *portal) Store(slot int, d *iaa.Descriptor) {
	m := p.n.q.m
	m.charge(m.cfg.Timing.Driver+m.cfg.Timing.Movdir, &m.stats.Processor.Submitting)
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.usable(slot, "MOVDIR64B", "dedicated") {
		p.n.q.store(d)
	}
}

func (p *portal) usable(slot int, instruction, mode string) bool {
	q := p.n.q
	switch {
	case p.n.closed:
		q.m.violate("%s: %s to an unmapped portal", q.name, instruction)
	case slot < 0 || slot >= iaa.PortalSlots:
		q.m.violate("%s: %s at slot %d, beyond the portal page", q.name, instruction, slot)
	case q.cfg.Mode != mode:
		q.m.violate("%s: %s to a %s queue", q.name, instruction, q.cfg.Mode)
	default:
		return true
	}
	return false
}

// charge lets the time of work of the processor pass, with a Clock, and adds it to a statistic.
func (m *Machine) charge(cost time.Duration, total *time.Duration) {
	if c := m.cfg.Clock; c != nil {
		m.mu.Lock()
		*total += cost
		m.mu.Unlock()
		c.Sleep(cost)
	}
}
