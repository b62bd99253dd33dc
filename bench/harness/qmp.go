package harness

import (
	"context"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// AwaitMigration waits until QEMU's migration has completed. It asks QEMU after each poll
// interval. After limit, it returns context.DeadlineExceeded.
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

// CancelMigration cancels QEMU's migration and waits until it has ended.
func CancelMigration(ctx context.Context, c *qmp.Client, poll time.Duration) error {
	if err := c.MigrateCancel(ctx); err != nil {
		return err
	}
	for {
		m, err := c.QueryMigrate(ctx)
		if err != nil || m.Ended() {
			return err
		}
		time.Sleep(poll)
	}
}
