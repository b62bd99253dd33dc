package iaa

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Device is all usable work queues, opened, as one device. It is safe for concurrent
// use; each goroutine submits jobs through a Session of its own.
type Device struct {
	opts      Options
	sys       System
	near, far []*queue // far is used only while near is full
	headerGen bool     // every queue's device builds dynamic tables itself
	timed     bool     // a queue blocks on faults, so jobs are timed
	maxJob    uint64   // bytes a job may read or write on the queue that takes most
	mem       registry
	control   []byte // AECS with the fixed tables, and the records of Open's probes

	mu       sync.Mutex
	sessions map[*Session]struct{}
	retired  Stats // of closed sessions
	kept     [][]byte
	closed   bool
}

// controlSize holds the fixed AECS and, behind it, one record.
const (
	probeRecord = (AECSSize + 63) &^ 63
	controlSize = osPage
)

// Open opens every usable work queue and tests each with a NOOP. It logs queues that
// cannot be used and leaves them out. If none is left, nothing stays open and the error
// wraps ErrUnavailable and explains each queue's problem.
func Open(ctx context.Context, opts Options) (*Device, error) {
	opts = opts.withDefaults()
	inv, err := Discover(opts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	d := &Device{opts: opts, sys: opts.System, sessions: make(map[*Session]struct{}), headerGen: true}
	d.control, err = d.sys.Map(controlSize, true)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := touch(d.sys, d.control, true); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnavailable, err), d.Close())
	}
	writeFixedAECS(d.control[:AECSSize])
	d.openAll(ctx, inv)
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("iaa: open: %w", err), d.Close())
	}
	if len(d.near)+len(d.far) == 0 {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrUnavailable, strings.TrimSpace(inv.Explain())), d.Close())
	}
	if len(d.near) == 0 {
		d.near, d.far = d.far, nil
	}
	return d, nil
}

// Probe is Discover, followed by an attempt to open and use each usable queue, which
// finds problems that sysfs does not show. It keeps nothing open. While it runs,
// another process may find a dedicated queue busy.
func Probe(ctx context.Context, opts Options) (*Inventory, error) {
	inv, err := Discover(opts)
	if err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	d := &Device{opts: opts, sys: opts.System, headerGen: true}
	d.control, err = d.sys.Map(controlSize, true)
	if err != nil {
		return nil, err
	}
	if err := touch(d.sys, d.control, true); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.openAll(ctx, inv)
	return inv, errors.Join(ctx.Err(), d.Close())
}

// openAll opens the inventory's usable queues and records problems in it.
func (d *Device) openAll(ctx context.Context, inv *Inventory) {
	for i := range inv.Devices {
		dev := &inv.Devices[i]
		for j := range dev.Queues {
			info := &dev.Queues[j]
			if info.Problem != nil || ctx.Err() != nil {
				continue
			}
			if d.opts.Filter != nil && !d.opts.Filter(*info) {
				info.Problem = &Problem{ReasonFilter, "the queue is left out by request", "ask for it"}
				continue
			}
			q, problem := d.openOne(ctx, *info, dev.Engines)
			if problem != nil {
				info.Problem = problem
				d.opts.Logger.Warn("IAA work queue not usable", "queue", info.Device+"/"+info.Name,
					"reason", problem.Text, "advice", problem.Advice)
				continue
			}
			info.Submission = string(q.via)
			d.headerGen = d.headerGen && dev.HeaderGen()
			d.timed = d.timed || q.extra&FlagBlockOnFault != 0
			q.transfer = min(info.transfer(), limitOf(dev.MaxTransfer))
			d.maxJob = max(d.maxJob, q.transfer)
			if len(d.opts.Nodes) == 0 || slices.Contains(d.opts.Nodes, dev.Node) {
				d.near = append(d.near, q)
			} else {
				d.far = append(d.far, q)
			}
		}
	}
}

// limitOf reads a maximum, where 0 means unknown.
func limitOf(n uint64) uint64 {
	if n == 0 {
		return 1 << 31
	}
	return n
}

// openOne opens a queue and runs a NOOP through it. Kernels differ in what they refuse;
// only a completion proves that the queue works.
func (d *Device) openOne(ctx context.Context, info QueueInfo, engines int) (*queue, *Problem) {
	q, problem := openQueue(d.sys, info, engines, !d.opts.NoBlockOnFault)
	if problem != nil {
		return nil, problem
	}
	if err := d.noop(ctx, q); err != nil {
		// Close waits for the NOOP if it is outstanding, so that its record can be used
		// for the next queue.
		err = errors.Join(err, q.node.Close())
		if q.via == viaWrite && errors.Is(err, syscall.EPERM) {
			return nil, &Problem{ReasonInherited, fmt.Sprintf("%s was opened by another process (%v): a descriptor that was inherited over a fork submits nothing", info.Path, err),
				"open the queue in the process that uses it"}
		}
		return nil, &Problem{ReasonNoSubmission, fmt.Sprintf("a NOOP submitted by %s failed: %v", q.via, err),
			"give the process CAP_SYS_RAWIO, or use a kernel from 6.9.1 on; check the kernel log"}
	}
	return q, nil
}

func (d *Device) noop(ctx context.Context, q *queue) error {
	rec := recordAt(d.control[probeRecord:])
	rec.clear()
	desc := &Descriptor{Record: address(d.control[probeRecord:])}
	desc.SetOp(OpNoop, FlagRecordValid|FlagRequestCompletion)
	start := d.sys.Now()
	for round := 0; ; round++ {
		err := q.submit(desc)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrQueueFull) || d.sys.Now()-start > d.opts.JobTimeout || ctx.Err() != nil {
			return err
		}
		d.sys.Relax(nil, 0, round)
	}
	for round := 0; ; round++ {
		switch c := rec.Load(); {
		case c.Status == StatusSuccess:
			q.completed()
			return nil
		case c.Status != StatusPending:
			return &JobError{Device: q.info.Device, Queue: q.info.Name, Op: OpNoop, Status: c.Status, Code: c.Code, Err: ErrRejected}
		case ctx.Err() != nil:
			return ctx.Err()
		case d.sys.Now()-start > d.opts.JobTimeout:
			return ErrTimeout
		}
		d.sys.Relax(&rec.word, 0, round)
	}
}

// submit offers a descriptor to the queues, the near ones first, and among
// those to the emptier of two. It returns the queue that took it.
func (d *Device) submit(desc *Descriptor, turn *int) (*queue, error) {
	*turn++
	full := false
	for _, tier := range [2][]*queue{d.near, d.far} {
		n := len(tier)
		for i := range n {
			q := tier[(*turn+i)%n]
			if i == 0 && n > 1 {
				if next := tier[(*turn+1)%n]; next.takes(desc) && next.load() < q.load() && !next.gone.Load() {
					q = next
				}
			}
			if !q.takes(desc) {
				continue
			}
			err := q.submit(desc)
			if err == nil {
				return q, nil
			}
			if err == ErrQueueFull {
				full = full || !d.disabled(q)
			}
		}
	}
	if full {
		return nil, ErrQueueFull
	}
	return nil, ErrUnavailable
}

// disabled reports whether a queue that keeps refusing is no longer enabled. If so, it
// gives the queue up.
func (d *Device) disabled(q *queue) bool {
	if q.refusals.Load() < refusalsToInspect {
		return false
	}
	q.refusals.Store(0)
	state := d.inspect(q)
	if state == "enabled" {
		return false
	}
	d.giveUp(q, "queue or device is "+state)
	return true
}

// strike records that a job on q did not complete in time. It gives q up if the kernel
// shows it as disabled, or after too many strikes in a row. Jobs that were submitted
// together time out together and count as one strike.
func (d *Device) strike(q *queue) {
	now := int64(d.sys.Now())
	if last := q.lastStrike.Load(); q.strikes.Load() > 0 && now-last < int64(d.opts.JobTimeout) {
		return
	}
	q.lastStrike.Store(now)
	if n := q.strikes.Add(1); n >= maxStrikes {
		d.giveUp(q, fmt.Sprintf("jobs timed out %d times in a row", n))
	}
	if state := d.inspect(q); state != "enabled" {
		d.giveUp(q, "queue or device is "+state)
	}
}

// giveUp stops submitting to q.
func (d *Device) giveUp(q *queue, why string) {
	if !q.gone.Swap(true) {
		d.opts.Logger.Warn("IAA work queue given up", "queue", q.info.Device+"/"+q.info.Name, "reason", why)
	}
}

// inspect reads the state of a queue that fails. The kernel drains or resets a queue
// before it shows a state other than enabled, so no job is on the queue then.
func (d *Device) inspect(q *queue) string {
	if q.stopped.Load() {
		return "stopped"
	}
	state := d.state(q)
	q.stopped.Store(state != "enabled")
	return state
}

// state reads the state of a queue and its device: "enabled" if both are.
func (d *Device) state(q *queue) string {
	for _, dir := range []string{q.info.Device, filepath.Join(q.info.Device, q.info.Name)} {
		b, err := os.ReadFile(filepath.Join(d.opts.SysfsRoot, dir, "state"))
		if err != nil {
			return "missing"
		}
		if s := strings.TrimSpace(string(b)); s != "enabled" {
			return s
		}
	}
	return "enabled"
}

// Register lets devices read and write mem in place, for example guest memory. mem must
// stay mapped until Unregister and must not be memory of the Go heap. Memory that is
// not registered is copied.
func (d *Device) Register(mem []byte) error { return d.mem.add(mem) }

// Unregister undoes a Register of exactly this memory. No job may be using it.
func (d *Device) Unregister(mem []byte) error {
	if !d.mem.remove(mem) {
		return fmt.Errorf("iaa: unregister %d bytes at %#x: not registered", len(mem), address(mem))
	}
	return nil
}

// NewMemory maps size bytes that devices can read and write in place.
func (d *Device) NewMemory(size int, p Prefault) (*Memory, error) {
	if size <= 0 {
		return nil, fmt.Errorf("iaa: memory of %d bytes: want more than 0", size)
	}
	mem, err := d.sys.Map(size, p == PrefaultPopulate)
	if err != nil {
		return nil, err
	}
	if p == PrefaultTouch {
		err = touch(d.sys, mem, true)
	}
	if err == nil {
		err = d.mem.add(mem)
	}
	if err != nil {
		return nil, errors.Join(err, d.sys.Unmap(mem))
	}
	return &Memory{dev: d, bytes: mem}, nil
}

// Queues returns the open queues, the near ones first.
func (d *Device) Queues() []QueueInfo {
	var out []QueueInfo
	for _, q := range d.queues() {
		out = append(out, q.info)
	}
	return out
}

func (d *Device) queues() []*queue { return slices.Concat(d.near, d.far) }

// Available reports whether a usable queue is left.
func (d *Device) Available() bool {
	return slices.ContainsFunc(d.queues(), func(q *queue) bool { return !q.gone.Load() })
}

// Stats returns the counts since Open, of open and closed sessions.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.retired
	s.Failures = maps.Clone(d.retired.Failures)
	for sess := range d.sessions {
		sess.count.addTo(&s)
	}
	for _, mem := range d.kept {
		s.LostBytes += int64(len(mem))
	}
	for _, q := range d.queues() {
		s.Queues = append(s.Queues, QueueStats{
			Device: q.info.Device, Queue: q.info.Name, Submission: string(q.via),
			Submitted: q.submitted.Load(), Outstanding: int(q.outstanding.Load()), Gone: q.gone.Load(),
		})
	}
	return s
}

// Close closes the queues. If a session is open, Close fails and closes nothing,
// because the session's memory may be in use. Close frees the memory of lost jobs; the
// kernel waits for outstanding jobs when a queue is closed.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	if n := len(d.sessions); n > 0 {
		return fmt.Errorf("iaa: close: %d sessions still open: close them first", n)
	}
	d.closed = true
	var errs []error
	for _, q := range d.queues() {
		errs = append(errs, q.node.Close())
	}
	for _, mem := range append(d.kept, d.control) {
		errs = append(errs, d.sys.Unmap(mem))
	}
	d.kept = nil
	return errors.Join(errs...)
}
