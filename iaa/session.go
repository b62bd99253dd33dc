package iaa

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"
)

// maxSlots bounds the memory that a session maps.
const maxSlots = 1 << 16

// SessionConfig configures a session.
type SessionConfig struct {
	Slots    int // jobs that may be in progress at once, at least 1
	PageSize int // largest page in bytes, 64 or more
	Huffman  Huffman
	Prefault Prefault
	// Bounce makes SubmitInflate always inflate into a buffer of the session
	// and copy from there, even if the destination is registered memory.
	Bounce bool
	// Retries, if not 0, replaces Options.Retries; a negative number means none.
	Retries int
}

func (c *SessionConfig) validate(d *Device) error {
	switch {
	case c.Slots < 1 || c.Slots > maxSlots:
		return fmt.Errorf("iaa: session with %d slots: want 1 to %d", c.Slots, maxSlots)
	case c.PageSize < 64 || uint64(c.PageSize) > d.maxJob:
		return fmt.Errorf("iaa: session with pages of %d bytes: want 64 to %d, what a queue can transfer", c.PageSize, d.maxJob)
	}
	return nil
}

// Session is one channel's jobs: for each slot a descriptor, a completion
// record and buffers, mapped once. It is for use by one goroutine at a time.
//
// A slot is free until a Submit succeeds, and then busy until Poll or Wait returns the
// job's result. The memory of a Result is valid until the slot's next Submit.
type Session struct {
	dev     *Device
	sys     System
	cfg     SessionConfig
	retries int
	arena   *Memory
	jobs    []job
	drains  []drain // one a queue
	turn    int
	lost    int // jobs in state lost
	count   counters
	closed  bool
}

// Result is what a job produced.
type Result struct {
	// Output is the compressed page, in the slot's buffer, or the inflated
	// page, in the destination. It is nil after an overflow.
	Output []byte
	// Overflow reports a page that did not shrink: send it as it is.
	Overflow bool
	// Faults is how many times the job was submitted again after page faults.
	Faults int
}

// NewSession maps and prefaults a session's memory.
func (d *Device) NewSession(cfg SessionConfig) (*Session, error) {
	if err := cfg.validate(d); err != nil {
		return nil, err
	}
	s := &Session{dev: d, sys: d.sys, cfg: cfg, retries: d.opts.Retries}
	if cfg.Retries != 0 {
		s.retries = max(cfg.Retries, 0)
	}
	lay := s.layout()
	arena, err := d.NewMemory(lay.size, cfg.Prefault)
	if err != nil {
		return nil, fmt.Errorf("iaa: session of %d slots: %w", cfg.Slots, err)
	}
	s.arena = arena
	// The device must never fault on the memory that it reports with, whatever the
	// policy for the buffers.
	if err := touch(d.sys, arena.bytes[:lay.buffers], true); err != nil {
		return nil, errors.Join(err, arena.Free())
	}
	s.carve(lay)

	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.Join(ErrClosed, arena.Free())
	}
	d.sessions[s] = struct{}{}
	return s, nil
}

// layout holds the offsets of the parts of the arena. The small parts that a device
// needs to report a result come first, the buffers after them.
type layout struct{ records, drains, descs, tables, buffers, stride, size int }

// tablesSize is a slot's own AECS and histogram, for dynamic tables.
const tablesSize = (AECSSize + HistogramSize + 63) &^ 63

func (s *Session) layout() layout {
	n := s.cfg.Slots
	var l layout
	l.drains = l.records + n*DescriptorSize
	l.descs = l.drains + 2*drainTries*len(s.dev.queues())*DescriptorSize
	l.tables = l.descs + n*DescriptorSize
	l.buffers = l.tables
	if s.cfg.Huffman == HuffmanDynamic {
		l.buffers += n * tablesSize
	}
	l.buffers = roundUp(l.buffers, osPage)
	l.stride = roundUp(s.cfg.PageSize, osPage)
	l.size = l.buffers + 2*n*l.stride
	return l
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

// carve divides the arena among the slots.
func (s *Session) carve(l layout) {
	mem := s.arena.bytes
	s.jobs = make([]job, s.cfg.Slots)
	for i := range s.jobs {
		j := &s.jobs[i]
		j.rec = recordAt(mem[l.records+i*DescriptorSize:])
		j.desc = descriptorAt(mem[l.descs+i*DescriptorSize:])
		if s.cfg.Huffman == HuffmanDynamic {
			t := mem[l.tables+i*tablesSize:]
			j.aecs, j.histogram = t[:AECSSize:AECSSize], t[AECSSize:][:HistogramSize:HistogramSize]
		}
		out := l.buffers + i*l.stride
		in := out + s.cfg.Slots*l.stride
		j.out = mem[out : out+s.cfg.PageSize : out+s.cfg.PageSize]
		j.in = mem[in : in+s.cfg.PageSize : in+s.cfg.PageSize]
	}
	for i, q := range s.dev.queues() {
		d := drain{q: q}
		for k := range d.tries {
			at := l.drains + 2*(i*drainTries+k)*DescriptorSize
			d.tries[k] = drainTry{rec: recordAt(mem[at:]), desc: descriptorAt(mem[at+DescriptorSize:])}
		}
		s.drains = append(s.drains, d)
	}
}

func recordAt(mem []byte) *Record { return (*Record)(unsafe.Pointer(&mem[:DescriptorSize][0])) }

func descriptorAt(mem []byte) *Descriptor {
	return (*Descriptor)(unsafe.Pointer(&mem[:DescriptorSize][0]))
}

// Slots is the number of slots.
func (s *Session) Slots() int { return len(s.jobs) }

// Lost reports whether the slot is lost because its job has not completed.
func (s *Session) Lost(slot int) bool { return s.jobs[slot].state == stateLost }

// Input is the slot's prefaulted input buffer, for a stream to inflate or a page
// to compress that would otherwise have to be copied there. Use it only while
// the slot is free.
func (s *Session) Input(slot int) []byte { return s.jobs[slot].in }

// SubmitCompress starts compressing page, of 2 to PageSize bytes, into the slot's
// output buffer, limited to one byte less than the page. The page must stay mapped
// until the job has ended or, after ErrTimeout, until the slot is free again. If the
// page changes meanwhile, the output is of a mixture of its states. SubmitCompress
// fails with ErrQueueFull or ErrUnavailable if no queue takes the job; the slot then
// stays free.
func (s *Session) SubmitCompress(slot int, page []byte) error {
	j, err := s.take(slot)
	if err != nil {
		return err
	}
	if len(page) < 2 || len(page) > s.cfg.PageSize {
		return fmt.Errorf("iaa: compress %d bytes: want 2 to %d", len(page), s.cfg.PageSize)
	}
	src := s.reachable(page, j.in)
	*j = job{buffers: j.buffers, op: OpCompress, src: src, dst: j.out[:len(page)-1]}
	switch {
	case s.cfg.Huffman == HuffmanFixed:
		j.pass = passFixed
	case s.dev.headerGen:
		j.pass = passHeader
	default:
		j.pass, j.dst = passStatistics, j.histogram
	}
	return s.launch(j)
}

// SubmitInflate starts inflating src, one deflate stream of at most PageSize bytes,
// which must produce exactly len(dst) bytes. The device writes directly into registered
// memory; other memory is filled from the slot's buffer. After a failure the content of
// dst is undefined; after ErrTimeout and ErrQueueGone see ErrTimeout.
func (s *Session) SubmitInflate(slot int, src, dst []byte) error {
	j, err := s.take(slot)
	if err != nil {
		return err
	}
	if len(src) < 1 || len(src) > s.cfg.PageSize || len(dst) < 1 || len(dst) > s.cfg.PageSize {
		return fmt.Errorf("iaa: inflate %d bytes to %d: want 1 to %d each", len(src), len(dst), s.cfg.PageSize)
	}
	*j = job{buffers: j.buffers, op: OpDecompress, pass: passInflate, src: s.reachable(src, j.in), dst: dst}
	if s.cfg.Bounce || !s.dev.mem.holds(dst) {
		j.dst, j.final = j.out[:len(dst)], dst
		s.count.bounced.Add(1)
	}
	return s.launch(j)
}

// Direct reports whether the device writes to dst itself in an inflate job, which
// matters after a time-out.
func (s *Session) Direct(dst []byte) bool { return !s.cfg.Bounce && s.dev.mem.holds(dst) }

// take returns the slot's job if the slot is free.
func (s *Session) take(slot int) (*job, error) {
	if s.closed {
		return nil, ErrClosed
	}
	j := &s.jobs[slot]
	if j.unread != nil {
		return nil, ErrSlotBusy
	}
	switch j.state {
	case stateIdle:
		return j, nil
	case stateLost:
		if s.Reclaim(); j.state == stateIdle {
			return j, nil
		}
		return nil, ErrSlotLost
	}
	return nil, ErrSlotBusy
}

// reachable returns src, or a copy in buf if src is not registered.
func (s *Session) reachable(src, buf []byte) []byte {
	if s.dev.mem.holds(src) {
		return src
	}
	s.count.bounced.Add(1)
	s.sys.Copy(buf[:len(src)], src)
	return buf[:len(src)]
}

// Poll checks the slot's job without waiting. It returns true and a result if the job
// has succeeded, and an error if it has failed. In both cases the slot is free again,
// except after ErrTimeout and ErrQueueGone. Poll also submits jobs again after page
// faults.
func (s *Session) Poll(slot int) (Result, bool, error) {
	j := &s.jobs[slot]
	if err := j.unread; err != nil {
		j.unread = nil
		return Result{}, false, err
	}
	switch j.state {
	case stateIdle:
		return Result{}, false, ErrSlotIdle
	case stateLost:
		return Result{}, false, ErrSlotLost
	case stateWaiting:
		return Result{}, false, s.resend(j)
	}
	c := j.rec.Load()
	if c.Status == StatusPending {
		return Result{}, false, s.overdue(j)
	}
	return s.complete(j, c)
}

// Wait polls until the job or ctx has ended. If ctx ends first, the job continues, and
// must be waited for again or drained.
func (s *Session) Wait(ctx context.Context, slot int) (Result, error) {
	for round := 0; ; round++ {
		r, done, err := s.Poll(slot)
		if done || err != nil {
			return r, err
		}
		if round%16 == 15 && ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		s.relax(slot, round)
	}
}

// Relax waits a moment for a change of the slot's job. round counts the calls since the
// caller last had other work.
func (s *Session) Relax(slot, round int) { s.relax(slot, round) }

func (s *Session) relax(slot, round int) {
	if j := &s.jobs[slot]; j.state == stateRunning {
		s.sys.Relax(&j.rec.word, 0, round)
		return
	}
	s.sys.Relax(nil, 0, round)
}

// Close drains the session and unmaps its memory. If jobs are still outstanding when
// ctx or Options.DrainTimeout ends, the memory is kept until the Device is closed, and
// the error wraps ErrUndrained: devices may still write to registered destinations of
// such jobs.
func (s *Session) Close(ctx context.Context) error {
	if s.closed {
		return nil
	}
	err := s.Drain(ctx)
	s.closed = true
	for i := range s.jobs { // results that were not polled
		if j := &s.jobs[i]; j.state == stateRunning && j.rec.Load().Status != StatusPending {
			j.q.completed()
		}
	}
	s.retire()
	if err != nil {
		s.arena.Keep()
		return err
	}
	return s.arena.Free()
}

// retire takes the session off the device's list.
func (s *Session) retire() {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	delete(s.dev.sessions, s)
	s.count.addTo(&s.dev.retired)
}

// since returns the time since start, which the first call sets: most jobs complete
// before their time is needed.
func (s *Session) since(start *time.Duration) time.Duration {
	now := s.sys.Now()
	if *start == 0 {
		*start = max(now, 1)
	}
	return now - *start
}
