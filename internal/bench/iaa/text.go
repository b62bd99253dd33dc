package iaabench

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// WriteText writes the report for people: what it rests on, a table, and the
// gain of hybrid mode.
func (r *Report) WriteText(w io.Writer) error {
	out := &stickyWriter{w: w}
	if r.Modelled {
		t := r.Timing
		fmt.Fprintf(out, "Modelled, in virtual time; no hardware was involved.\n")
		fmt.Fprintf(out, "Published: an engine takes %v + %.2f ns/byte, a device has 8 and delivers %.1f GB/s.\n", t.Operation, t.PerByte, t.DeviceRate/1e9)
		fmt.Fprintf(out, "Taken for this machine: software compresses a page in %v and inflates one in %v; the driver takes %v a job.\n",
			r.CPUCompress, r.CPUInflate, r.Driver)
		fmt.Fprintf(out, "Assumed: ENQCMD %v, touching a page %v, copying %.2f ns/byte; the network takes nothing.\n\n", t.Enqcmd, t.Touch, t.Copy)
	} else {
		fmt.Fprintf(out, "Measured on hardware. Software compresses a page in %v and inflates one in %v.\n\n", r.CPUCompress, r.CPUInflate)
	}
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "direction\tby\tdevices\tmemory\tGB/s\tengines busy\tfaults\thardware\tCPU\n")
	for _, x := range r.Rows {
		busy := "-"
		if x.Busy > 0 {
			busy = fmt.Sprintf("%.0f %%", 100*x.Busy)
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%.2f\t%s\t%d\t%.0f %%\t%.0f %%\n", x.Direction, x.Mode, x.Devices, x.Memory,
			x.Rate/1e9, busy, x.Faults, 100*x.Hardware, 100*x.Software)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nHybrid adds this part of what the CPU does alone (%d channels):\n", r.Channels)
	for _, dir := range []Direction{Compress, Inflate} {
		for _, n := range r.deviceCounts() {
			fmt.Fprintf(out, "  %s, %d devices: %.0f %%\n", dir, n, 100*r.Gain(dir, n))
		}
	}
	return out.err
}

func (r *Report) deviceCounts() []int {
	var out []int
	for _, x := range r.Rows {
		if x.Mode == Hybrid && !slices.Contains(out, x.Devices) {
			out = append(out, x.Devices)
		}
	}
	return out
}

// stickyWriter keeps the first error, so that a page of Fprintf needs one check.
type stickyWriter struct {
	w   io.Writer
	err error
}

func (s *stickyWriter) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}
