package migration

import (
	"encoding/json"
	"time"
)

// Task is what a Progress is about.
type Task string

// The tasks that report their progress.
const (
	TaskSave    Task = "save"
	TaskRestore Task = "restore"
	TaskReceive Task = "receive"
	TaskSend    Task = "send"
	TaskVerify  Task = "verify"
)

// Progress is how far a task is. A task sets the fields that its JSON has: see
// MarshalJSON. Counts of bytes are bytes, those of pages target pages.
type Progress struct {
	Task Task
	// Phase is that of a save: "connect", "memory", "paused" or "finish". Round
	// counts its passes over the dirty pages.
	Phase string
	Round uint64
	// Sent and Received are what the connections carried, Stored the pages that a
	// snapshot has, superseded ones included.
	Sent, Received uint64
	Stored         int64
	// Normal are the pages with data, Zero the pages that are zero, and TotalPages
	// the pages with data that there are.
	Normal, Zero, TotalPages uint64
	// Bytes of TotalBytes are done: of a snapshot that is verified. Of a save,
	// TotalBytes is the guest memory, and Remaining what is still to come in this
	// round.
	Bytes                 int64
	TotalBytes, Remaining uint64
	DirtyPagesPerSecond   uint64
	BytesPerSecond        float64
	Elapsed               time.Duration
	TimeToGo              time.Duration // estimated, 0 if unknown
	QEMUStatus            string        // of QEMU's migration
}

// MarshalJSON writes the fields of the task. Durations are in nanoseconds.
func (p Progress) MarshalJSON() ([]byte, error) {
	switch p.Task {
	case TaskSave:
		return json.Marshal(struct {
			Phase      string        `json:"phase"`
			Round      uint64        `json:"round"`
			Received   uint64        `json:"received_bytes"`
			Stored     int64         `json:"stored_bytes"`
			Normal     uint64        `json:"normal_pages"`
			Zero       uint64        `json:"zero_pages"`
			Total      uint64        `json:"total_bytes"`
			Remaining  uint64        `json:"remaining_bytes"`
			DirtyRate  uint64        `json:"dirty_pages_per_second"`
			Rate       float64       `json:"bytes_per_second"`
			Elapsed    time.Duration `json:"elapsed_ns"`
			TimeToGo   time.Duration `json:"time_to_go_ns"`
			QEMUStatus string        `json:"qemu_status"`
		}{p.Phase, p.Round, p.Received, p.Stored, p.Normal, p.Zero, p.TotalBytes, p.Remaining, p.DirtyPagesPerSecond, p.BytesPerSecond, p.Elapsed, p.TimeToGo, p.QEMUStatus})
	case TaskRestore:
		return json.Marshal(struct {
			Sent    uint64        `json:"sent_bytes"`
			Normal  uint64        `json:"normal_pages"`
			Total   uint64        `json:"total_pages"`
			Elapsed time.Duration `json:"elapsed_ns"`
		}{p.Sent, p.Normal, p.TotalPages, p.Elapsed})
	case TaskReceive:
		return json.Marshal(struct {
			Normal   uint64 `json:"normal_pages"`
			Received uint64 `json:"received_bytes"`
			Stored   int64  `json:"stored_bytes"`
			Zero     uint64 `json:"zero_pages"`
		}{p.Normal, p.Received, p.Stored, p.Zero})
	case TaskSend:
		return json.Marshal(struct {
			Normal uint64 `json:"normal_pages"`
			Sent   uint64 `json:"sent_bytes"`
			Total  uint64 `json:"total_pages"`
		}{p.Normal, p.Sent, p.TotalPages})
	}
	return json.Marshal(struct {
		Bytes int64  `json:"bytes"`
		Total uint64 `json:"total_bytes"`
	}{p.Bytes, p.TotalBytes})
}
