package iaa

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers test for with errors.Is.
var (
	// ErrUnavailable: no work queue is usable, at Open or later.
	ErrUnavailable = errors.New("iaa: no usable work queue")
	// ErrQueueFull: every usable queue was full after all retries. The job was not
	// submitted.
	ErrQueueFull = errors.New("work queues full")
	// ErrQueueGone: the job's queue was disabled, or its device disappeared.
	ErrQueueGone = errors.New("work queue gone")
	// ErrTimeout: the job did not complete in time. Until Session.Drain has succeeded,
	// the device may use the slot and, if it is registered memory, the destination.
	ErrTimeout = errors.New("job did not complete in time")
	// ErrFaults: page faults went on after every allowed resubmission.
	ErrFaults = errors.New("too many page faults")
	// ErrAddress: the processor cannot access the job's memory either.
	ErrAddress = errors.New("memory is not accessible")
	// ErrHardware: the device reported a failure of its own.
	ErrHardware = errors.New("device failure")
	// ErrRejected: the device refused the descriptor.
	ErrRejected = errors.New("descriptor refused")
	// ErrRecord: the completion record is inconsistent.
	ErrRecord = errors.New("completion record makes no sense")
	// ErrMalformed: the stream to inflate is not valid deflate within the
	// device's limits (4 KiB history).
	ErrMalformed = errors.New("malformed deflate stream")
	// ErrSize: the stream inflates to more or fewer bytes than requested.
	ErrSize = errors.New("inflated size differs from the destination's")
	// ErrSlotBusy: the result of the slot's job was not polled yet.
	ErrSlotBusy = errors.New("iaa: slot busy")
	// ErrSlotIdle: the slot has no job to wait for.
	ErrSlotIdle = errors.New("iaa: slot has no job")
	// ErrSlotLost: the slot's last job timed out and the device may still
	// write to its memory. Session.Drain may bring it back.
	ErrSlotLost = errors.New("iaa: slot lost to a job that has not completed")
	// ErrUndrained: jobs are still outstanding after the time allowed for draining.
	ErrUndrained = errors.New("iaa: jobs still outstanding")
	// ErrClosed: the session or device is closed.
	ErrClosed = errors.New("iaa: closed")
)

// JobError describes a job that failed. It wraps one of the errors above; find it with
// errors.As.
type JobError struct {
	Device    string // "iax1", empty if no device got the job
	Queue     string // "wq1.0"
	Op        Opcode
	Status    Status // StatusPending without a report of the device
	Code      Code
	FaultAddr uint64 // with a page fault status
	Err       error
	Detail    string // what was expected, where Err alone does not say
}

// Error names device, queue, operation, status and what the status means.
func (e *JobError) Error() string {
	var b strings.Builder
	b.WriteString("iaa: ")
	if e.Queue != "" {
		fmt.Fprintf(&b, "%s/%s: ", e.Device, e.Queue)
	}
	fmt.Fprintf(&b, "%v: %v", e.Op, e.Err)
	if e.Detail != "" {
		fmt.Fprintf(&b, " (%s)", e.Detail)
	}
	if e.Status != StatusPending {
		fmt.Fprintf(&b, ": %v, %s", e.Status, e.Status.Meaning())
	}
	if e.Status == StatusAnalyticsError {
		fmt.Fprintf(&b, ": %v", e.Code)
	}
	if e.Status.isFault() {
		fmt.Fprintf(&b, " at %#x", e.FaultAddr)
	}
	return b.String()
}

// Unwrap returns the sentinel error.
func (e *JobError) Unwrap() error { return e.Err }
