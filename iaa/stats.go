package iaa

import (
	"errors"
	"sync/atomic"
	"time"
)

// Stats counts the work of a Device since Open. A job is a page, not a descriptor: a
// resubmission or a second pass is not a new job.
type Stats struct {
	Compressed int64 `json:"compressed"` // jobs that succeeded, overflows included
	Inflated   int64 `json:"inflated"`   // jobs that succeeded
	BytesIn    int64 `json:"bytes_in"`   // source bytes of jobs that succeeded
	BytesOut   int64 `json:"bytes_out"`  // bytes they produced
	Overflows  int64 `json:"overflows"`  // pages that did not shrink
	Bounced    int64 `json:"bounced"`    // buffers copied because they were not registered, or because of Bounce

	QueueFull    int64 `json:"queue_full"`    // submissions refused after the retries
	Retries      int64 `json:"retries"`       // submissions tried again on a full queue
	ReadFaults   int64 `json:"read_faults"`   // page faults reported on reads
	WriteFaults  int64 `json:"write_faults"`  // page faults reported on writes
	Resubmits    int64 `json:"resubmits"`     // submissions after page faults
	PagesTouched int64 `json:"pages_touched"` // pages made present for the device

	// SlowJobs took longer than SlowJob on a queue with block-on-fault, where the
	// device waits for page faults without reporting them; SlowTime is the sum of their
	// times. A job that is polled late is slow as well, so these are upper bounds.
	SlowJobs int64         `json:"slow_jobs"`
	SlowTime time.Duration `json:"slow_time_ns"`

	Lost      int64 `json:"lost"`       // jobs that did not complete and whose slots were lost
	Reclaimed int64 `json:"reclaimed"`  // lost jobs that completed late or were drained
	LostBytes int64 `json:"lost_bytes"` // memory of jobs that never completed, kept until the device is closed

	// Failures counts the jobs that ended in an error, by cause.
	Failures map[string]int64 `json:"failures,omitempty"`
	Queues   []QueueStats     `json:"queues,omitempty"`
}

// QueueStats is the part of Stats that is counted by queue.
type QueueStats struct {
	Device      string `json:"device"`
	Queue       string `json:"queue"`
	Submission  string `json:"submission"`
	Submitted   int64  `json:"submitted"`   // descriptors
	Outstanding int    `json:"outstanding"` // now
	Gone        bool   `json:"gone"`        // given up
}

// SlowJob is the time after which a job with block-on-fault counts as one that met a
// page fault: several times the time of an operation on a page.
const SlowJob = 50 * time.Microsecond

// failureCauses maps the errors that end jobs to their names in Stats.Failures.
var failureCauses = []struct {
	err  error
	name string
}{
	{ErrQueueFull, "queue-full"},
	{ErrQueueGone, "queue-gone"},
	{ErrTimeout, "timeout"},
	{ErrFaults, "page-faults"},
	{ErrAddress, "address"},
	{ErrHardware, "hardware"},
	{ErrRejected, "rejected"},
	{ErrRecord, "bad-record"},
	{ErrMalformed, "malformed"},
	{ErrSize, "size"},
}

// Cause returns the name of a failed job's error in Stats.Failures: "page-faults",
// "timeout" and so on, or "other".
func Cause(err error) string {
	for _, c := range failureCauses {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	if errors.Is(err, ErrUnavailable) {
		return "unavailable"
	}
	return "other"
}

// counters are a session's share of Stats. One goroutine writes, any may read.
type counters struct {
	compressed, inflated, bytesIn, bytesOut, overflows, bounced       atomic.Int64
	queueFull, retries, readFaults, writeFaults, resubmits, pagesSeen atomic.Int64
	slowJobs, slowTime, lost, reclaimed                               atomic.Int64
	failures                                                          [16]atomic.Int64
}

func (c *counters) fail(err error) {
	for i, cause := range failureCauses {
		if errors.Is(err, cause.err) {
			c.failures[i].Add(1)
			return
		}
	}
}

// addTo adds the counters to s.
func (c *counters) addTo(s *Stats) {
	s.Compressed += c.compressed.Load()
	s.Inflated += c.inflated.Load()
	s.BytesIn += c.bytesIn.Load()
	s.BytesOut += c.bytesOut.Load()
	s.Overflows += c.overflows.Load()
	s.Bounced += c.bounced.Load()
	s.QueueFull += c.queueFull.Load()
	s.Retries += c.retries.Load()
	s.ReadFaults += c.readFaults.Load()
	s.WriteFaults += c.writeFaults.Load()
	s.Resubmits += c.resubmits.Load()
	s.PagesTouched += c.pagesSeen.Load()
	s.SlowJobs += c.slowJobs.Load()
	s.SlowTime += time.Duration(c.slowTime.Load())
	s.Lost += c.lost.Load()
	s.Reclaimed += c.reclaimed.Load()
	for i, cause := range failureCauses {
		if n := c.failures[i].Load(); n > 0 {
			if s.Failures == nil {
				s.Failures = make(map[string]int64)
			}
			s.Failures[cause.name] += n
		}
	}
}
