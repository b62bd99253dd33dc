package main

import (
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa/iaamodel"
	iaaprobe "github.com/vmferry/vmferry/internal/probe/iaa"
)

func TestModel_ReportsEveryRun(t *testing.T) {
	cfg := iaaprobe.Config{Codec: iaaprobe.NewSoftwareCodec, Devices: []int{1, 2}, Channels: 2, Packets: 2}
	start := time.Now()
	cfg.Now = func() time.Duration { return time.Since(start) / 1000 } // the budget is enough on any machine
	p, m, err := newModel(t.Context(), cfg, iaamodel.PublishedTiming, 0)
	if err == nil {
		err = p.Run(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Costs; c.Compress <= 0 || c.Inflate <= 0 || c.Driver <= 0 || m.timing.Driver != c.Driver {
		t.Errorf("measured %+v, in the model %v", c, m.timing.Driver)
	}
	for _, n := range []int{1, 2} {
		pages := int64(2 * 2 * iaaprobe.PacketPages)
		for mem, least := range map[iaaprobe.Memory]int64{iaaprobe.Present: 0, iaaprobe.Absent: pages, iaaprobe.Blocked: pages, iaaprobe.Bounced: 0} {
			row := p.Find(iaaprobe.Inflate, iaaprobe.HardwareOnly, n, mem)
			if row.Faults < least || least == 0 && row.Faults != 0 || row.Hardware != 1 {
				t.Errorf("inflate to %s memory: %+v", mem, row)
			}
		}
	}
	text := m.text(p)
	for _, want := range []string{"virtual time", "no hardware was involved", "Assumed: ENQCMD", "absent, device waits", "inflate, 2 devices:"} {
		if !strings.Contains(text, want) {
			t.Errorf("report lacks %q:\n%s", want, text)
		}
	}
	if !p.Modelled {
		t.Error("the report is not marked as modelled")
	}
}
