package iaaprobe

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// noTime is a clock for the budget that makes every row have all its pages.
func noTime() time.Duration { return 0 }

// run measures all rows, and returns the report as text, too.
func run(t *testing.T, cfg Config) (*Report, string) {
	t.Helper()
	p, err := New(cfg)
	if err == nil {
		err = p.Run(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return &p.Report, p.Text()
}

// TestHardware_MeasuresDevicesByTheClock uses a model that runs in real time as devices.
func TestHardware_MeasuresDevicesByTheClock(t *testing.T) {
	m, err := iaamodel.New(t.TempDir(), iaamodel.Uniform(2, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	numbers := Numbers(t.Context(), m.Options())
	if len(numbers) != 2 || numbers[0] != 1 || numbers[1] != 2 {
		t.Fatalf("numbers of devices: %v, want 1 and 2", numbers)
	}
	cfg := Config{Codec: NewSoftwareCodec, SetUp: Hardware(m.Options()), Devices: numbers, Channels: 2, Packets: 2, Now: noTime}
	r, text := run(t, cfg)
	if !strings.Contains(text, "Measured on hardware") || !strings.Contains(text, "inflate, 2 devices:") {
		t.Errorf("report:\n%s", text)
	}
	if len(r.Rows) != 2*(1+2*3)+2*2 {
		t.Errorf("%d rows in the report", len(r.Rows))
	}
	for _, row := range r.Rows {
		if row.Rate <= 0 || row.Pages != 2*2*PacketPages || row.Mode == HardwareOnly && row.Hardware < 0.5 {
			t.Errorf("row: %+v", row)
		}
	}
	cfg.Devices = []int{3}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "2 usable devices") {
		t.Errorf("three devices measured on a machine with two: %v", err)
	}
}

func TestProbe_WithoutDevicesMeasuresTheProcessor(t *testing.T) {
	r, text := run(t, Config{Codec: NewSoftwareCodec, Channels: 2, Packets: 2, Now: noTime})
	if len(r.Rows) != 2 || r.Rows[0].Direction != Compress || r.Rows[1].Direction != Inflate {
		t.Fatalf("rows %+v", r.Rows)
	}
	for _, row := range r.Rows {
		if row.Mode != CPUOnly || row.Software != 1 || row.Rate <= 0 || row.Pages != 2*2*PacketPages {
			t.Errorf("row %+v", row)
		}
	}
	if !strings.Contains(text, "Measured on the processor alone") || strings.Contains(text, "Hybrid adds") {
		t.Errorf("report:\n%s", text)
	}
}

func TestReport_KeysAreAContract(t *testing.T) {
	got, err := json.Marshal(Report{Channels: 8, Costs: Costs{1, 2, 3}, Rows: []Row{{Direction: Compress, Mode: Hybrid, Devices: 1, Memory: Present, Busy: 0.5}}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"modelled":false,"channels":8,"cpu_compress_ns":1,"cpu_inflate_ns":2,"driver_ns":3,"rows":[` +
		`{"direction":"compress","mode":"hybrid","devices":1,"memory":"present","pages":0,"elapsed_ns":0,"bytes_per_second":0,"busy":0.5,"faults":0,"hardware_share":0,"software_share":0}]}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNew_RefusesWhatCannotBeMeasured(t *testing.T) {
	for want, cfg := range map[string]Config{
		"no codec":     {},
		"1 to 4096":    {Codec: NewSoftwareCodec, Channels: 5000},
		"page shrinks": {Codec: func() hybrid.Codec { return raw{} }},
	} {
		if _, err := New(cfg); err == nil || !regexp.MustCompile(want).MatchString(err.Error()) {
			t.Errorf("error %v, want one that has %q", err, want)
		}
	}
}

// raw is a codec that makes no page smaller.
type raw struct{}

func (raw) Deflate(_, _ []byte) int   { return 0 }
func (raw) Inflate(_, _ []byte) error { return nil }
