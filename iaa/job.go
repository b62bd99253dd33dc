package iaa

import (
	"errors"
	"fmt"
	"time"
)

type jobState uint8

const (
	stateIdle    jobState = iota
	stateRunning          // on a device, or in a queue
	stateWaiting          // to be submitted again once a queue has room
	stateLost             // timed out, but a device may still have it
)

// pass is the kind of descriptor that a job submits next.
type pass uint8

const (
	passFixed      pass = iota // compress with the shared AECS
	passHeader                 // compress, the device builds the tables
	passStatistics             // count symbols into the histogram
	passDynamic                // compress with the slot's own AECS
	passInflate
)

// buffers is what a slot owns in the arena.
type buffers struct {
	desc            *Descriptor
	rec             *Record
	in, out         []byte
	aecs, histogram []byte // with dynamic tables only
}

// job is a slot and the state of its job.
type job struct {
	buffers
	state   jobState
	pass    pass
	op      Opcode
	src     []byte // where the device reads, registered
	dst     []byte // where it writes
	final   []byte // where an inflated page is copied to, if not dst
	q       *queue
	faults  int
	polls   uint32
	mark    int64         // completions of the queue when the job was submitted
	started time.Duration // 0 until first needed
	unread  error         // error that Drain got before Poll
	lostAt  int           // which drain covers it: see drain.seq
}

// launch fills in the descriptor for the job's pass and submits it. On an error
// the slot is free.
func (s *Session) launch(j *job) error {
	d := j.desc
	*d = Descriptor{
		Record: address(recordBytes(j.rec)), Src1: address(j.src), Src1Size: uint32(len(j.src)),
		Dst: address(j.dst), MaxDst: uint32(len(j.dst)),
	}
	flags := FlagRecordValid | FlagRequestCompletion
	switch j.pass {
	case passFixed, passDynamic:
		flags |= FlagReadAECS
		d.CodecFlags = CompressWhole
		d.Src2, d.Src2Size = address(s.aecs(j)), AECSSize
	case passHeader:
		d.CodecFlags = CompressWhole | CompressOnePassHeader
	case passStatistics:
		d.CodecFlags = CompressStatistics
	case passInflate:
		d.CodecFlags = DecompressWhole
	}
	d.SetOp(j.op, flags)
	if j.q == nil && s.dev.timed {
		s.since(&j.started)
	}
	for try := 0; ; try++ {
		err := s.send(j)
		if err == nil {
			return nil
		}
		if err != ErrQueueFull || try >= s.retries {
			if err == ErrQueueFull {
				s.count.queueFull.Add(1)
			}
			j.state = stateIdle
			return err
		}
		s.count.retries.Add(1)
		s.sys.Relax(nil, 0, try)
	}
}

// aecs is the AECS of a job that reads one.
func (s *Session) aecs(j *job) []byte {
	if j.pass == passDynamic {
		return j.aecs
	}
	return s.dev.control[:AECSSize]
}

// send submits the descriptor once.
func (s *Session) send(j *job) error {
	j.rec.clear()
	q, err := s.dev.submit(j.desc, &s.turn)
	if err != nil {
		return err
	}
	j.q, j.state, j.mark = q, stateRunning, q.done.Load()
	return nil
}

// resend submits a job that found the queues full after a page fault or before its
// second pass.
func (s *Session) resend(j *job) error {
	err := s.send(j)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrQueueFull) && s.since(&j.started) <= s.dev.opts.JobTimeout:
		return nil
	}
	return s.fail(j, Completion{}, err, "on resubmission")
}

// again submits the job's descriptor again, or leaves that to the next Poll.
func (s *Session) again(j *job) (Result, bool, error) {
	j.state = stateWaiting
	return Result{}, false, s.resend(j)
}

// overdueEvery is how many polls without a result pass between readings of the clock.
const overdueEvery = 32

// overdue fails a pending job if it has timed out or its queue is gone.
func (s *Session) overdue(j *job) error {
	if j.q.gone.Load() {
		s.dev.inspect(j.q)
		return s.lose(j, ErrQueueGone)
	}
	if j.polls++; j.polls%overdueEvery != 0 || s.since(&j.started) <= s.dev.opts.JobTimeout {
		return nil
	}
	// Many jobs of one packet may be lost on a queue that works otherwise.
	if j.q.done.Load() == j.mark {
		s.dev.strike(j.q)
	}
	return s.lose(j, ErrTimeout)
}

// complete handles a completed descriptor.
func (s *Session) complete(j *job, c Completion) (Result, bool, error) {
	j.q.completed()
	if j.q.extra != 0 {
		if t := s.since(&j.started); t > SlowJob {
			s.count.slowJobs.Add(1)
			s.count.slowTime.Add(int64(t))
		}
	}
	switch {
	case c.Status == StatusSuccess:
		return s.success(j, c)
	case c.Status.isFault():
		return s.fault(j, c)
	case c.Status == StatusAnalyticsError && j.op == OpCompress && c.Code == CodeOutputOverflow,
		c.Status == StatusOutputOverflow && j.op == OpCompress:
		return s.overflow(j, c)
	case c.Status == StatusAnalyticsError && j.op == OpDecompress:
		return Result{}, false, s.fail(j, c, ErrMalformed, "")
	case c.Status == StatusOutputOverflow:
		return Result{}, false, s.fail(j, c, ErrSize, fmt.Sprintf("more than %d bytes", len(j.dst)))
	case c.Status.isHardware():
		return Result{}, false, s.fail(j, c, ErrHardware, "")
	case c.Status.Known():
		return Result{}, false, s.fail(j, c, ErrRejected, "")
	}
	return Result{}, false, s.fail(j, c, ErrRecord, "")
}

// success compares the record with what was requested, and starts the next pass if
// there is one. An inconsistent record is an error: the output that it describes cannot
// be trusted.
func (s *Session) success(j *job, c Completion) (Result, bool, error) {
	out, used := int(j.rec.OutputSize), int(j.rec.BytesCompleted)
	switch {
	case j.op == OpCompress && used != len(j.src), used > len(j.src):
		return Result{}, false, s.fail(j, c, ErrRecord, fmt.Sprintf("%d of %d bytes consumed", used, len(j.src)))
	case j.pass == passStatistics:
		return s.secondPass(j, c)
	case out == 0 || out > len(j.dst):
		return Result{}, false, s.fail(j, c, ErrRecord, fmt.Sprintf("output of %d bytes, room for %d", out, len(j.dst)))
	case j.op == OpDecompress && out != len(j.dst):
		return Result{}, false, s.fail(j, c, ErrSize, fmt.Sprintf("%d bytes, want %d", out, len(j.dst)))
	}
	s.count.bytesIn.Add(int64(len(j.src)))
	s.count.bytesOut.Add(int64(out))
	r := Result{Output: j.dst[:out:out], Faults: j.faults}
	if j.op == OpCompress {
		s.count.compressed.Add(1)
	} else {
		s.count.inflated.Add(1)
	}
	if j.final != nil {
		s.sys.Copy(j.final, r.Output)
		r.Output = j.final
	}
	j.state = stateIdle
	return r, true, nil
}

// secondPass builds the tables from the histogram and compresses.
func (s *Session) secondPass(j *job, c Completion) (Result, bool, error) {
	dynamic, err := writeDynamicAECS(j.aecs, j.histogram, len(j.src))
	if err != nil {
		return Result{}, false, s.fail(j, c, err, "")
	}
	j.pass = passFixed
	if dynamic {
		j.pass = passDynamic
	}
	j.dst = j.out[:len(j.src)-1]
	err = s.launch(j)
	if err == ErrQueueFull {
		j.state = stateWaiting
		return Result{}, false, nil
	}
	if err != nil {
		return Result{}, false, s.fail(j, Completion{}, err, "on the second pass")
	}
	return Result{}, false, nil
}

func (s *Session) overflow(j *job, c Completion) (Result, bool, error) {
	s.count.compressed.Add(1)
	s.count.overflows.Add(1)
	s.count.bytesIn.Add(int64(len(j.src)))
	j.state = stateIdle
	return Result{Overflow: true, Faults: j.faults}, true, nil
}

// fault makes all memory of the job present and submits the whole job again: a device
// keeps no state of a job that met a fault.
func (s *Session) fault(j *job, c Completion) (Result, bool, error) {
	if c.Status&0x80 != 0 {
		s.count.writeFaults.Add(1)
	} else {
		s.count.readFaults.Add(1)
	}
	if j.faults++; j.faults > s.dev.opts.FaultRetries {
		return Result{}, false, s.fail(j, c, ErrFaults, fmt.Sprintf("%d times", j.faults))
	}
	type access struct {
		mem   []byte
		write bool
	}
	need := []access{{j.src, false}, {j.dst, true}, {recordBytes(j.rec), true}}
	if j.op == OpCompress {
		need = append(need, access{s.aecs(j), false})
	}
	for _, n := range need {
		if err := touch(s.sys, n.mem, n.write); err != nil {
			return Result{}, false, s.fail(j, c, err, "")
		}
		s.count.pagesSeen.Add(int64(pagesOf(n.mem)))
	}
	s.count.resubmits.Add(1)
	return s.again(j)
}

func pagesOf(mem []byte) int {
	r := span(mem)
	return int((r.end-1)/osPage-r.start/osPage) + 1
}

// fail ends the job, counts the cause and frees the slot.
func (s *Session) fail(j *job, c Completion, cause error, detail string) error {
	s.count.fail(cause)
	j.state = stateIdle
	return s.describe(j, c, cause, detail)
}

// lose ends the job but does not free its slot.
func (s *Session) lose(j *job, cause error) error {
	s.count.fail(cause)
	s.count.lost.Add(1)
	s.lost++
	j.state = stateLost
	for i := range s.drains {
		if s.drains[i].q == j.q {
			j.lostAt = s.drains[i].seq
		}
	}
	return s.describe(j, Completion{}, cause, "")
}

func (s *Session) describe(j *job, c Completion, cause error, detail string) error {
	e := &JobError{Op: j.op, Status: c.Status, Code: c.Code, Err: cause, Detail: detail}
	if j.q != nil {
		e.Device, e.Queue = j.q.info.Device, j.q.info.Name
	}
	if c.Status.isFault() {
		e.FaultAddr = j.rec.FaultAddr
	}
	return e
}
