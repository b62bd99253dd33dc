package destination

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/iaa/iaamodel"
)

func TestRun_EndsWithItsContext(t *testing.T) {
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := Compare(ctx, Memories(), Options{Packets: 2}, func(m Memory) {
		if m == Fresh {
			cancel(interrupted)
		}
	}); err != interrupted {
		t.Errorf("error %v, want %v", err, interrupted)
	}
}

func TestRun_RefusesWhatCannotBeModelled(t *testing.T) {
	much := 1.
	for want, o := range map[string]Options{"1 to 256": {Channels: 300}, "0 to 1": {Zero: &much}} {
		if _, err := Run(t.Context(), Fresh, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestResult_KeysAreAContract(t *testing.T) {
	got, err := json.Marshal(Result{Modelled: true, Destination: Scan})
	const want = `{"modelled":true,"destination":"scan","channels":0,"devices":0,"data_pages":0,"zero_pages":0,"elapsed_ns":0,"bytes_per_second":0,` +
		`"times_prealloc":0,"device_faults":0,"cpu_faults":0,"tlb_flushes":0,"causes":{"receive":0,"submit":0,"compute":0,"translation":0,` +
		`"device_faults":0,"tlb_flush":0,"engine_stall":0,"cpu_faults":0,"zero_scan":0,"copy":0}}`
	if err != nil || string(got) != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
}

func TestCompare_TextShowsEachCause(t *testing.T) {
	var runs []Memory
	results, err := Compare(t.Context(), []Memory{Scan}, Options{Packets: 2}, func(m Memory) { runs = append(runs, m) })
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || results[0].Times <= 1 || len(runs) != 2 || runs[0] != Prealloc {
		t.Fatalf("results %+v of runs %v", results, runs)
	}
	var text strings.Builder
	if err := WriteText(&text, results); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"no hardware was involved", "times prealloc", "TLB flush", "engine stall", "\nscan "} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, &text)
		}
	}
}

// TestPublished_LatenciesAgreeWithTheHistogram compares the costs with the averages and
// extremes that the kernel reported.
func TestPublished_LatenciesAgreeWithTheHistogram(t *testing.T) {
	published := iaamodel.PublishedIOMMU
	for _, c := range []struct {
		name             string
		l                iaamodel.Latency
		average, longest int64 // in whole microseconds, as the kernel prints them
	}{{"svm_prq", published.Request, 9, 556}, {"inv_iotlb", published.FlushIOTLB, 0, 1}, {"inv_devtlb", published.FlushDevice, 0, 2}} {
		if got := c.l.Mean().Microseconds(); got != c.average {
			t.Errorf("%s takes %v on average, want %d us", c.name, c.l.Mean(), c.average)
		}
		for _, b := range c.l {
			if (b.To - 1).Microseconds() > c.longest {
				t.Errorf("%s takes up to %v, want %d us", c.name, b.To, c.longest)
			}
		}
	}
}
