package iaabench

import (
	"bytes"
	"errors"
	"io"
	"os"
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

// TestGoals: the driver keeps the modelled engines 90 % busy, and hybrid reaches
// the hardware and 80 % of what the processor does alone.
func TestGoals(t *testing.T) {
	r, err := Run(t.Context(), Config{Codec: newCodec, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WriteText(os.Stdout); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []Direction{Compress, Inflate} {
		for _, n := range []int{1, 2, 4} {
			for _, mode := range []Mode{HardwareOnly, Hybrid} {
				row, ok := r.Find(dir, mode, n, Present)
				if !ok || row.Busy < 0.9 {
					t.Errorf("%s, %s, %d devices: engines busy %.0f %%, want 90 %%", dir, mode, n, 100*row.Busy)
				}
			}
			if g := r.Gain(dir, n); g < 0.8 {
				t.Errorf("%s, %d devices: hybrid adds %.0f %% of the processor's rate, want 80 %%", dir, n, 100*g)
			}
		}
	}
	present, _ := r.Find(Inflate, HardwareOnly, 2, Present)
	absent, _ := r.Find(Inflate, HardwareOnly, 2, Absent)
	if present.Faults != 0 || absent.Faults < int64(absent.Pages) || absent.Rate > present.Rate {
		t.Errorf("present: %d faults, %.2g B/s; absent: %d faults, %.2g B/s", present.Faults, present.Rate, absent.Faults, absent.Rate)
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
