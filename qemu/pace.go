package qemu

import (
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qmp"
)

// newPace returns the bound on the bytes a second that a save reads; nil without one.
// QEMU's own bound, which is set too, is not enough: QEMU counts from zero each tenth
// of a second and lets each channel finish its packets, so that 1 MB/s becomes 10.
func newPace(bandwidth uint64) *migration.Pace {
	if bandwidth >= unlimited {
		return nil
	}
	return migration.NewPace(bandwidth)
}

// liftAtStop lifts the bound when the machine is paused, because QEMU sends the
// remaining data without one. The returned function ends the wait for the pause.
func liftAtStop(vm *qmp.Machine, pace *migration.Pace) (stop func()) {
	if pace == nil {
		return func() {}
	}
	stops := vm.Subscribe("STOP")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, stopped := <-stops.Events(); stopped {
			pace.Lift()
		}
	}()
	return func() {
		stops.Close()
		<-done
	}
}
