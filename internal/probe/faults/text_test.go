package faults

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

func ptr(v float64) *float64 { return &v }

// small is a report as Run would return it.
func small() *Report {
	return &Report{
		Options: Options{Memory: 8 << 20, Runs: 3},
		Rows: []Row{
			{Cell: Cell{None, ScanZeros, Direct}, Figures: &Figures{DataFaults: 1000, ZeroFaults: 1001, LaterArrivalFaults: 1002, LaterWriteFaults: 1003, SetupMS: 0.5, ArrivalMS: 2, WriteMS: 1, MBps: 77}},
			{Cell: Cell{None, ReceivedBitmap, Direct}, Figures: &Figures{TLBShootdowns: ptr(3), DTLBLoadMisses: ptr(4), DTLBStoreMisses: ptr(5), VMStat: map[string]float64{"nr_tlb_remote_flush": 6}}},
			{Cell: Cell{HugeTLB, ScanZeros, Bounce}, Unavailable: "not enough huge pages"},
		},
		Buffers: []BufferRow{{BufferCell{Send, FirstTouch}, &BufferFigures{FirstFaults: 938, LaterFaults: 1, SetupUS: 2, FirstUS: 3, LaterUS: 4}}},
		NotRead: []NotRead{{"dtlb_misses", "no counter"}},
	}
}

func TestWriteJSON_KeysAreAContract(t *testing.T) {
	var b bytes.Buffer
	if err := small().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	const want = `{"bench":"memory","memory":"none","policy":"scan zeros","path":"direct","data_faults":1000,"zero_faults":1001,"later_arrival_faults":1002,"later_write_faults":1003,"setup_faults":0,"setup_ms":0.5,"arrival_ms":2,"write_ms":1,"mbps":77}
{"bench":"memory","memory":"none","policy":"received bitmap","path":"direct","data_faults":0,"zero_faults":0,"later_arrival_faults":0,"later_write_faults":0,"setup_faults":0,"setup_ms":0,"arrival_ms":0,"write_ms":0,"mbps":0,"tlb_shootdowns":3,"dtlb_load_misses":4,"dtlb_store_misses":5,"vmstat":{"nr_tlb_remote_flush":6}}
{"bench":"memory","memory":"hugetlb","policy":"scan zeros","path":"bounce","unavailable":"not enough huge pages"}
{"bench":"buffers","direction":"send","buffers":"first touch","first_faults":938,"later_faults":1,"setup_us":2,"first_us":3,"later_us":4}
{"bench":"not-read","counter":"dtlb_misses","reason":"no counter"}
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for line := range strings.Lines(b.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestWriteText_SaysWhatIsNotKnown(t *testing.T) {
	var b bytes.Buffer
	if err := small().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(b.String()) {
		f := strings.Fields(line)
		if len(f) > 0 {
			fields[f[0]] = strings.Join(f, " ") // the last line of each memory
		}
	}
	if want := "hugetlb bounce scan zeros not available: not enough huge pages"; fields["hugetlb"] != want {
		t.Errorf("%q, want %q", fields["hugetlb"], want)
	}
	if want := "none direct scan zeros 1000 1001 1002 1003 0 0.5 2.0 1.0 77 - - -"; !strings.Contains(squeeze(b.String()), want) {
		t.Errorf("no line %q in\n%s", want, b.String())
	}
	if want := "not read: dtlb_misses: no counter"; !strings.Contains(b.String(), want) {
		t.Errorf("no line %q", want)
	}
}

func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

func TestWriteChart_HasDashesForWhatIsNotKnown(t *testing.T) {
	var b bytes.Buffer
	if err := small().WriteChart(&b); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(b.String(), ">–<"); got != 10 { // five kinds of memory by two policies
		t.Errorf("%d values are not known, want 10", got)
	}
	if !strings.Contains(b.String(), ">2,005<") {
		t.Error("the faults of arrival and write are not added")
	}
	for d := xml.NewDecoder(&b); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
