package qmp

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/vmferry/vmferry/internal/sleep"
)

// yankMigration is the type of the yank instances that a migration registers.
const yankMigration = "migration"

// QueryYank lists the types of the connections that QEMU could break by its yank
// command: "migration" as long as a migration has connections that QEMU has not
// cleaned up, also after query-migrate says that the migration has ended.
func (vm *Machine) QueryYank(ctx context.Context) ([]string, error) {
	var list []struct {
		Type string `json:"type"`
	}
	if err := vm.Execute(ctx, "query-yank", nil, &list); err != nil {
		return nil, err
	}
	types := make([]string, len(list))
	for i, instance := range list {
		types[i] = instance.Type
	}
	return types, nil
}

// AwaitMigrationCleanup returns when no migration has connections any more. A
// migration has ended for query-migrate before QEMU has cleaned it up. QEMU 10.0
// aborts if the capability multifd is turned off in between.
//
// A QEMU before 6.0 has no query-yank; AwaitMigrationCleanup then waits a second,
// in which the cleanup is over unless the host is overloaded.
func (vm *Machine) AwaitMigrationCleanup(ctx context.Context) error {
	for {
		types, err := vm.QueryYank(ctx)
		var refused *Error
		switch {
		case errors.As(err, &refused) && refused.Class == ClassCommandNotFound:
			return sleep.For(ctx, time.Second)
		case err != nil:
			return err
		}
		if !slices.Contains(types, yankMigration) {
			return nil
		}
		if err := sleep.For(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}
