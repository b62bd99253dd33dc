package qemu

import (
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qmp"
)

// newPace returns the bound on what a save reads; nil without one. QEMU's own
// bound, which is set too, is counted anew each tenth of a second and lets each
// channel finish the packets that it has: 1 MB/s comes as 10.
func newPace(bandwidth uint64) *migration.Pace {
	if bandwidth >= unlimited {
		return nil
	}
	return migration.NewPace(bandwidth)
}

// liftAtStop lifts the bound when the machine is paused: what then is left is
// read as fast as it comes, as QEMU sends it. The returned function ends the
// waiting for that.
func liftAtStop(c *qmp.Client, pace *migration.Pace) (stop func()) {
	if pace == nil {
		return func() {}
	}
	stops := c.Subscribe("STOP")
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
