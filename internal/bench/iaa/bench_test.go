package iaabench

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"

	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

type codec struct {
	w *flate.Writer
	r io.ReadCloser
}

func newCodec() hybrid.Codec {
	w, err := flate.NewWriter(nil, 1)
	if err != nil {
		panic(err)
	}
	return &codec{w, flate.NewReader(nil)}
}

func (c *codec) Deflate(dst, page []byte) int {
	b := bytes.NewBuffer(dst[:0])
	c.w.Reset(b)
	if _, err := c.w.Write(page); err != nil {
		return 0
	}
	if err := c.w.Close(); err != nil || b.Len() > len(dst) {
		return 0
	}
	return b.Len()
}

func (c *codec) Inflate(dst, src []byte) error {
	if err := c.r.(flate.Resetter).Reset(bytes.NewReader(src), nil); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.r, dst); err != nil {
		return err
	}
	if n, err := c.r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return errors.New("stream too long")
	}
	return nil
}

func TestReport(t *testing.T) {
	var rows int
	cfg := Config{Codec: newCodec, Devices: []int{1, 2}, Channels: 2, Packets: 2, Progress: func(Row) { rows++ }}
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if rows != len(r.Rows) || rows != 2*(1+2*3)+2*2 {
		t.Errorf("%d rows reported, %d in the report", rows, len(r.Rows))
	}
	if r.CPUCompress <= 0 || r.CPUInflate <= 0 || r.Driver <= 0 {
		t.Errorf("measured %v, %v and %v", r.CPUCompress, r.CPUInflate, r.Driver)
	}
	for _, n := range []int{1, 2} {
		pages := int64(2 * 2 * PacketPages)
		for mem, least := range map[Memory]int64{Present: 0, Absent: pages, Blocked: pages, Bounced: 0} {
			row, ok := r.Find(Inflate, HardwareOnly, n, mem)
			if !ok || row.Faults < least || least == 0 && row.Faults != 0 || row.Hardware != 1 {
				t.Errorf("inflate to %s memory: %+v", mem, row)
			}
		}
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"virtual time", "no hardware was involved", "Assumed: ENQCMD", "absent, device waits", "inflate, 2 devices:"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, &text)
		}
	}
	if _, err := Run(t.Context(), Config{}); err == nil {
		t.Error("no codec accepted")
	}
	if _, err := Run(t.Context(), Config{Codec: newCodec, Pages: [][]byte{{1}}}); err == nil {
		t.Error("page of one byte accepted")
	}
}

// TestMeasuringDevices takes the path for hardware, with a model that runs live.
func TestMeasuringDevices(t *testing.T) {
	m, err := iaamodel.New(t.TempDir(), iaamodel.Uniform(2, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	opts := m.Options()
	r, err := Run(t.Context(), Config{Codec: newCodec, Hardware: &opts, Devices: []int{1, 2}, Channels: 2, Packets: 2})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "Measured on hardware") {
		t.Errorf("report: %v\n%s", err, &text)
	}
	for _, row := range r.Rows {
		if row.Rate <= 0 || row.Pages != 2*2*PacketPages || row.Mode == HardwareOnly && row.Hardware < 0.5 {
			t.Errorf("row: %+v", row)
		}
	}
	if _, err := Run(t.Context(), Config{Codec: newCodec, Hardware: &opts, Devices: []int{3}}); err == nil {
		t.Error("three devices measured on a machine with two")
	}
}
