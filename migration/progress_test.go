package migration_test

import (
	"encoding/json"
	"testing"

	"github.com/vmferry/vmferry/migration"
)

// Scripts read these keys.
func TestProgress_JSONOfEachTask(t *testing.T) {
	p := migration.Progress{
		Phase: "memory", Round: 2, Sent: 3, Received: 4, Stored: 5, Normal: 6, Zero: 7, TotalPages: 8, Bytes: 9, TotalBytes: 10, Remaining: 11,
		DirtyPagesPerSecond: 12, BytesPerSecond: 13.5, Elapsed: 14, TimeToGo: 15, QEMUStatus: "active",
	}
	for task, want := range map[migration.Task]string{
		migration.TaskSave: `{"phase":"memory","round":2,"received_bytes":4,"stored_bytes":5,"normal_pages":6,"zero_pages":7,"total_bytes":10,"remaining_bytes":11,` +
			`"dirty_pages_per_second":12,"bytes_per_second":13.5,"elapsed_ns":14,"time_to_go_ns":15,"qemu_status":"active"}`,
		migration.TaskRestore: `{"sent_bytes":3,"normal_pages":6,"total_pages":8,"elapsed_ns":14}`,
		migration.TaskReceive: `{"normal_pages":6,"received_bytes":4,"stored_bytes":5,"zero_pages":7}`,
		migration.TaskSend:    `{"normal_pages":6,"sent_bytes":3,"total_pages":8}`,
		migration.TaskVerify:  `{"bytes":9,"total_bytes":10}`,
	} {
		p.Task = task
		got, err := json.Marshal(p)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s (%v), want %s", task, got, err, want)
		}
	}
}
