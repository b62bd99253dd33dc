package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmferry/vmferry/qmp"
)

// errResumed is that something else let a machine run that had to stand still.
var errResumed = errors.New("something else let the machine run (QMP: cont)")

// stillness watches a machine that has to stand still. It also notices a machine
// that was let run and was paused again.
type stillness struct {
	vm      *qmp.Machine
	resumed *qmp.Subscription
}

// watchStillness watches a machine that is paused, from now on.
func watchStillness(vm *qmp.Machine) *stillness {
	return &stillness{vm: vm, resumed: vm.Subscribe("RESUME")}
}

// check fails with errResumed if the machine runs or ran since the watch began.
func (w *stillness) check(ctx context.Context) error {
	// QEMU's answer comes after the events of what happened before it.
	status, err := w.vm.QueryStatus(ctx)
	if err != nil {
		return fmt.Errorf("asking whether the machine stands still: %w", err)
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

func (w *stillness) close() { w.resumed.Close() }

// checkStill fails if a machine ran that may not run while it is saved, because QEMU
// loses its writes then. The save may have paused it, or something else before.
func (s *save) checkStill(ctx context.Context) error {
	if s.still == nil {
		return nil
	}
	err := s.still.check(ctx)
	if errors.Is(err, errResumed) {
		return fmt.Errorf("%w while it had to stand still: this QEMU loses writes of a machine that runs while it is saved, so there is no snapshot (do not let it run before the save has ended)", err)
	}
	return err
}
