package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/qmp"
)

// errResumed says that another program let a machine run that had to stay paused.
var errResumed = errors.New("something else let the machine run (QMP: cont)")

// pauseWatch watches a machine that has to stay paused. It also notices a machine that
// ran and was paused again.
type pauseWatch struct {
	vm      *qmp.Machine
	resumed *qmp.Subscription
}

// watchPause watches a machine that is paused, from now on.
func watchPause(vm *qmp.Machine) *pauseWatch {
	return &pauseWatch{vm: vm, resumed: vm.Subscribe("RESUME")}
}

// check fails with errResumed if the machine runs or ran since the watch began.
func (w *pauseWatch) check(ctx context.Context) error {
	// QEMU's answer comes after the events of what happened before it.
	status, err := w.vm.QueryStatus(ctx)
	if err != nil {
		return fmt.Errorf("asking whether the machine is still paused: %w", err)
	}
	select {
	case _, open := <-w.resumed.Events():
		if open {
			return errResumed
		}
	default:
	}
	if live(status.Status) {
		return errResumed
	}
	return nil
}

func (w *pauseWatch) close() { w.resumed.Close() }
