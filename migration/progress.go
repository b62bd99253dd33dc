package migration

import (
	"encoding/json"
	"time"
)

// Task is the task that a Progress reports.
type Task string

// The tasks that report their progress.
const (
	TaskSave    Task = "save"
	TaskRestore Task = "restore"
	TaskReceive Task = "receive"
	TaskSend    Task = "send"
	TaskVerify  Task = "verify"
	TaskMigrate Task = "migrate"
	TaskAccept  Task = "accept"
)

// Progress reports how far a task has come. A task sets the fields that its JSON has:
// see MarshalJSON. Pages are target pages.
type Progress struct {
	Task Task
	// Phase is the phase of a save: "connect", "memory", "paused" or "finish"; of a
	// migration to another QEMU: "compare", "connect", "memory", "at-pause" or
	// "finish"; at the destination: "wait", "compare", "memory", "loaded" or "runs".
	// Round counts the passes over the dirty pages.
	Phase string
	Round uint64
	// Sent and Received are bytes on the connections. Stored is the bytes of pages in
	// the snapshot, including superseded ones.
	Sent, Received uint64
	// Link is the bytes on the links between two hosts.
	Link   uint64
	Stored int64
	// Normal counts the pages with data, Zero the zero pages, so far. TotalPages is
	// the number of pages with data in the snapshot.
	Normal, Zero, TotalPages uint64
	// A verification has read Bytes of TotalBytes. For a save, TotalBytes is the
	// guest memory, and Remaining the bytes that remain in this round.
	Bytes                 int64
	TotalBytes, Remaining uint64
	DirtyPagesPerSecond   uint64
	BytesPerSecond        float64
	Elapsed               time.Duration
	TimeToGo              time.Duration // estimated, 0 if unknown
	QEMUStatus            string        // of QEMU's migration
	// ExpectedDowntime is QEMU's estimate. Throttle is by how many percent QEMU slows
	// the machine down.
	ExpectedDowntime time.Duration
	Throttle         int
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
	case TaskMigrate:
		return json.Marshal(struct {
			Phase            string        `json:"phase"`
			Round            uint64        `json:"round"`
			Sent             uint64        `json:"sent_bytes"`
			Link             uint64        `json:"link_bytes"`
			Normal           uint64        `json:"normal_pages"`
			Zero             uint64        `json:"zero_pages"`
			Total            uint64        `json:"total_bytes"`
			Remaining        uint64        `json:"remaining_bytes"`
			DirtyRate        uint64        `json:"dirty_pages_per_second"`
			Rate             float64       `json:"bytes_per_second"`
			ExpectedDowntime time.Duration `json:"expected_downtime_ns"`
			Throttle         int           `json:"throttle_percent"`
			Elapsed          time.Duration `json:"elapsed_ns"`
			TimeToGo         time.Duration `json:"time_to_go_ns"`
			QEMUStatus       string        `json:"qemu_status"`
		}{p.Phase, p.Round, p.Sent, p.Link, p.Normal, p.Zero, p.TotalBytes, p.Remaining, p.DirtyPagesPerSecond, p.BytesPerSecond, p.ExpectedDowntime, p.Throttle, p.Elapsed, p.TimeToGo, p.QEMUStatus})
	case TaskAccept:
		return json.Marshal(struct {
			Phase   string        `json:"phase"`
			Elapsed time.Duration `json:"elapsed_ns"`
		}{p.Phase, p.Elapsed})
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
