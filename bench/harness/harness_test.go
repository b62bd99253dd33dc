package harness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/transport"
)

// The sides of a measurement run this program.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == SideArgument {
		if err := RunSide(os.Stdin, os.Stdout, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func tinyJob() Job {
	return Job{MemoryMiB: 8, DataMiB: 5, Channels: 2, Method: "none", Pages: guestmem.TransparentHuge, Prealloc: guestmem.PreallocNone, Downtime: Downtime}
}

func TestRunPair_MeasuresAMigration(t *testing.T) {
	j := tinyJob()
	j.WorkMiB, j.Rate, j.Method = 4, 1000, "qpl"
	from, to, err := RunPair(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	o := from.Outcome
	if !o.Verified || o.Downtime <= 0 || o.Downtime > o.Total || from.Usage.CPU <= 0 || to.Usage.CPU <= 0 {
		t.Errorf("%+v, %v, %v", o, from.Usage, to.Usage)
	}
	if sent, want := o.Rounds[0].Raw+o.Rounds[0].Compressed, uint64(j.DataMiB<<20/PageSize); sent < want || sent > want+1024 {
		t.Errorf("the first round had %d pages with data, want %d or a few more", sent, want)
	}
	if from.Counters[0] < 100 {
		t.Errorf("%d writes", from.Counters[0])
	}
}

// An incomplete copy is an error.
func TestCompare_FindsWhatDiffers(t *testing.T) {
	ok := Result{Digest: 1, Counters: []uint64{2}, Outcome: &live.Outcome{Verified: true}}
	if err := compare(ok, ok); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Result){
		"memory":   func(t *Result) { t.Digest = 2 },
		"counters": func(t *Result) { t.Counters = []uint64{3} },
		"handover": func(t *Result) { t.Outcome = &live.Outcome{} },
	} {
		from := ok
		change(&from)
		if err := compare(from, ok); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRunPair_SideThatFails(t *testing.T) {
	j := tinyJob()
	j.Method = "no such method"
	if _, _, err := RunPair(t.Context(), j); err == nil {
		t.Error("no error")
	}
}

func TestNewMemory_ShareOfData(t *testing.T) {
	for _, pages := range []guestmem.PageKind{guestmem.SmallPages, guestmem.TransparentHuge} {
		m, err := NewMemory(Job{MemoryMiB: 16, DataMiB: 10, Pages: pages})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		data, ram := 0, m.Bytes(m.Layout().Blocks[0])
		seen := map[string]bool{}
		for at := 0; at < len(ram); at += PageSize {
			if page := string(ram[at : at+PageSize]); page != string(make([]byte, PageSize)) {
				data++
				seen[page] = true
			}
		}
		if data != 10<<20/PageSize || len(seen) != data {
			t.Errorf("%d pages with data, %d of them different", data, len(seen))
		}
	}
}

func TestUsageOf_AgreesWithGetrusage(t *testing.T) {
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
	}
	before := usageNow()
	got, err := UsageOf(os.Getpid())
	after := usageNow()
	if err != nil {
		t.Fatal(err)
	}
	const slack = 10 * time.Millisecond // getrusage is scaled
	if got.CPU < before.CPU-slack || got.CPU > after.CPU+slack || got.Faults < before.Faults || got.Faults > after.Faults {
		t.Errorf("%v is not between %v and %v", got, before, after)
	}
	if _, err := UsageOf(1 << 22); err == nil {
		t.Error("no error for a process that is not there")
	}
}

func TestRunSide_UnknownSide(t *testing.T) {
	if err := RunSide(strings.NewReader(`{"Side":"neither"}`), io.Discard, nil); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Error(err)
	}
	if err := RunSide(strings.NewReader(fmt.Sprintf(`{"Side":%q,"MemoryMiB":1,"Channels":1,"Method":"none"} "nowhere"`, source)), io.Discard, nil); !errors.Is(err, transport.ErrAddress) {
		t.Error(err)
	}
}
