package harness

import (
	"context"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// AwaitMigration asks QEMU every poll until its migration is completed. Its error is
// context.DeadlineExceeded if that takes longer than limit.
func AwaitMigration(ctx context.Context, c *qmp.Client, poll, limit time.Duration) (qmp.Migration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		m, err := c.QueryMigrate(ctx)
		switch {
		case err != nil:
			return m, err
		case m.Status == qmp.MigrationCompleted:
			return m, nil
		case m.Ended():
			return m, fmt.Errorf("the migration %s: %s", m.Status, m.ErrorDesc)
		}
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case <-time.After(poll):
		}
	}
}
