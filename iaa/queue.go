package iaa

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"syscall"
)

// submission is how descriptors reach a queue.
type submission string

const (
	viaEnqcmd submission = "enqcmd"
	viaMovdir submission = "movdir64b"
	viaWrite  submission = "write"
)

// maxStrikes is how many strikes in a row, with no completion in between, give a queue
// up: a dead queue costs a few time-outs and not one for each page.
const maxStrikes = 3

// refusalsToInspect is how many refusals in a row lead to a check of the queue's state:
// a disabled queue refuses jobs as a full one does.
const refusalsToInspect = 64

// queue is an open work queue, shared by every session of a Device.
type queue struct {
	info   QueueInfo
	node   Node
	portal Portal
	via    submission
	limit  int32 // jobs of this process that may be outstanding
	extra  Flags // flags that this queue's descriptors carry
	// transfer is how many bytes a job may read or write here.
	transfer uint64

	outstanding atomic.Int32
	submitted   atomic.Int64
	done        atomic.Int64 // descriptors completed
	turn        atomic.Uint32
	strikes     atomic.Int32
	lastStrike  atomic.Int64 // when, in nanoseconds of System.Now
	refusals    atomic.Int32 // in a row
	gone        atomic.Bool  // given up: nothing is submitted any more
	stopped     atomic.Bool  // the kernel has taken all jobs from the device
}

// openQueue opens a queue and chooses how to submit to it. On a problem it leaves
// nothing open.
func openQueue(sys System, info QueueInfo, engines int, blockOnFault bool) (*queue, *Problem) {
	node, err := sys.OpenQueue(info.Path)
	if err != nil {
		return nil, openProblem(&info, err)
	}
	q := &queue{info: info, node: node, via: viaWrite, limit: int32(info.Capacity()), transfer: info.transfer()}
	ins := sys.Instructions()
	if shared := info.Mode == modeShared; shared && ins.ENQCMD || !shared && ins.MOVDIR64B {
		portal, err := node.Map()
		switch {
		case err == nil && shared:
			q.portal, q.via = portal, viaEnqcmd
		case err == nil:
			q.portal, q.via = portal, viaMovdir
		case !errors.Is(err, fs.ErrPermission):
			_ = node.Close()
			return nil, &Problem{ReasonFailed, fmt.Sprintf("mmap of %s: %v", info.Path, err), "check the kernel log"}
		}
	}
	if info.Mode == modeShared {
		// The queue itself reports that it is full. A descriptor leaves it when an
		// engine takes it.
		q.limit += int32(engines)
	}
	if blockOnFault && info.BlockOnFault {
		q.extra = FlagBlockOnFault
	}
	q.info.Submission = string(q.via)
	return q, nil
}

func openProblem(info *QueueInfo, err error) *Problem {
	switch {
	case errors.Is(err, syscall.EBUSY):
		return &Problem{ReasonBusy, "the dedicated queue is in use by another process", "stop that process, or configure the queue as shared"}
	case errors.Is(err, fs.ErrPermission):
		return &Problem{ReasonPermission, "no permission to open " + info.Path, "chgrp and chmod 660 it, or pass it into the container"}
	case errors.Is(err, fs.ErrNotExist):
		return &Problem{ReasonNoNode, info.Path + " does not exist", "check that udev runs"}
	}
	return &Problem{ReasonFailed, fmt.Sprintf("open %s: %v", info.Path, err), "check the kernel log"}
}

// takes reports whether the queue can transfer the job's bytes.
func (q *queue) takes(d *Descriptor) bool {
	return uint64(d.Src1Size) <= q.transfer && uint64(d.MaxDst) <= q.transfer
}

// submit offers a descriptor once. It returns nil, ErrQueueFull or ErrQueueGone.
func (q *queue) submit(d *Descriptor) error {
	// A queue that was given up must still take DRAINs for its outstanding jobs.
	if q.gone.Load() && (d.Op() != OpDrain || q.stopped.Load()) {
		return ErrQueueGone
	}
	// Reserve first: a dedicated queue silently drops descriptors beyond its size.
	if q.outstanding.Add(1) > q.limit {
		q.outstanding.Add(-1)
		return ErrQueueFull
	}
	if op := d.Op(); op == OpCompress || op == OpDecompress {
		d.SetOp(op, d.Flags()&^FlagBlockOnFault|q.extra)
	}
	err := q.push(d)
	if err != nil {
		q.outstanding.Add(-1)
		q.refusals.Add(1)
		return err
	}
	q.refusals.Store(0)
	q.submitted.Add(1)
	return nil
}

func (q *queue) push(d *Descriptor) error {
	slot := int(q.turn.Add(1) % PortalSlots)
	switch q.via {
	case viaEnqcmd:
		if !q.portal.Enqueue(slot, d) {
			return ErrQueueFull
		}
		return nil
	case viaMovdir:
		q.portal.Store(slot, d)
		return nil
	}
	n, err := q.node.Write([]Descriptor{*d})
	switch {
	case n == 1:
		return nil
	case err == nil, errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return ErrQueueFull
	}
	q.gone.Store(true)
	return fmt.Errorf("%w: %w", ErrQueueGone, err)
}

// released uncounts a job that is no longer on the device.
func (q *queue) released() { q.outstanding.Add(-1) }

// completed is released for a job that the device has completed.
func (q *queue) completed() {
	q.done.Add(1)
	q.strikes.Store(0)
	q.released()
}

// load returns how full the queue is, in thousandths.
func (q *queue) load() int32 { return q.outstanding.Load() * 1000 / q.limit }
