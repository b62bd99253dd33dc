package iaaprobe

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// slowCodec is a codec whose pages take time on a clock that only codecs advance.
type slowCodec struct {
	hybrid.Codec
	clock *atomic.Int64
	page  time.Duration
}

func (c slowCodec) Deflate(dst, page []byte) int {
	c.clock.Add(int64(c.page))
	return c.Codec.Deflate(dst, page)
}

func (c slowCodec) Inflate(dst, src []byte) error {
	c.clock.Add(int64(c.page))
	return c.Codec.Inflate(dst, src)
}

// TestRun_SlowCodecHasFewerPages measures codecs of different speed by a clock that advances
// with their pages alone.
func TestRun_SlowCodecHasFewerPages(t *testing.T) {
	for _, c := range []struct {
		page time.Duration
		all  bool // the budget is enough for all pages
	}{{time.Microsecond, true}, {time.Millisecond, false}, {20 * time.Millisecond, false}} {
		clock := new(atomic.Int64)
		now := func() time.Duration { return time.Duration(clock.Load()) }
		var seen []Progress
		r, _ := run(t, Config{
			Codec:    func() hybrid.Codec { return slowCodec{NewSoftwareCodec(), clock, c.page} },
			Channels: 4, Packets: 64, Now: now, Progress: func(p Progress) { seen = append(seen, p) },
		})
		took := now()
		if took > 30*time.Second {
			t.Errorf("%v a page: the run took %v, want at most 30s", c.page, took)
		}
		all := 4 * 64 * PacketPages
		for _, row := range r.Rows {
			if (row.Pages == all) != c.all || row.Pages > all {
				t.Errorf("%v a page: %d of %d pages measured in %s", c.page, row.Pages, all, row.Direction)
			}
		}
		if !c.all && took < DefaultBudget/4 {
			t.Errorf("%v a page: the run used only %v of %v for %d pages", c.page, took, DefaultBudget, r.Rows[0].Pages)
		}
		if len(seen) < 4 || seen[0].Done != 0 || seen[len(seen)-1].Done != 1 || seen[0].Total != 2 {
			t.Errorf("%v a page: progress %v", c.page, seen)
		}
		for i, p := range seen[1:] {
			if p.Done == seen[i].Done && p.Pages < 2*seen[i].Pages && p.Pages != 64*PacketPages {
				t.Errorf("%v a page: a pass of %d pages after one of %d", c.page, p.Pages, seen[i].Pages)
			}
		}
	}
}

// TestRun_InterruptWithJobsInFlight interrupts a run while devices work. The error is the cause
// of the interrupt alone, and no job is left to the machine.
func TestRun_InterruptWithJobsInFlight(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	jobs := 0
	cfg := iaamodel.Uniform(1, nil)
	cfg.Script.Run = func(iaamodel.Job) iaamodel.Action {
		if jobs++; jobs == 100 {
			cancel(interrupted)
		}
		return iaamodel.Action{}
	}
	m, err := iaamodel.New(t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	p, err := New(Config{Codec: NewSoftwareCodec, SetUp: Hardware(m.Options()), Devices: []int{1}, Channels: 4})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(ctx); err != interrupted {
		t.Errorf("error %v, want the cause alone: %v", err, interrupted)
	}
	if jobs < 100 {
		t.Errorf("only %d jobs", jobs)
	}
	if nodes, regions := m.Live(); nodes != 0 || regions != 0 {
		t.Errorf("%d queues open and %d regions mapped after the interrupt", nodes, regions)
	}
	for _, v := range m.Violations() {
		t.Error(v)
	}
}
