package live_test

import (
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
)

func TestReceive_PaceBoundsTheSource(t *testing.T) {
	const memory, bandwidth = 4 << 20, 4 << 20
	p := newPairOf(t, machine.Config{Memory: memory, Writers: 1, Rate: 20, Seed: 7}, "unix", 2, multifd.None)
	p.recv.Pace = migration.NewPace(bandwidth)
	out, source, destination := p.run(t.Context(), p.dial)
	if source != nil || destination != nil {
		t.Fatal(source, destination)
	}
	p.checkMoved(out)
	if least := time.Duration(float64(out.Bytes) / bandwidth * 0.8 * float64(time.Second)); out.Total < least {
		t.Errorf("%d bytes came within %v at %d bytes a second", out.Bytes, out.Total, bandwidth)
	}
}
