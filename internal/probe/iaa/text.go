package iaaprobe

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// WriteText writes the report for people: what it rests on, a table, and the
// gain of hybrid mode.
func (r *Report) WriteText(w io.Writer) error {
	by := "on the processor alone"
	if len(r.deviceCounts()) > 0 {
		by = "on hardware"
	}
	if _, err := fmt.Fprintf(w, "Measured %s. Software compresses a page in %v and inflates one in %v.\n\n", by, r.Costs.Compress, r.Costs.Inflate); err != nil {
		return err
	}
	return r.WriteTables(w)
}

// WriteTables writes the table and the gain of hybrid mode.
func (r *Report) WriteTables(out io.Writer) error {
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
	counts := r.deviceCounts()
	if len(counts) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "\nHybrid adds this part of what the CPU does alone (%d channels):\n", r.Channels)
	for _, dir := range []Direction{Compress, Inflate} {
		for _, n := range counts {
			if err == nil {
				_, err = fmt.Fprintf(out, "  %s, %d devices: %.0f %%\n", dir, n, 100*r.Gain(dir, n))
			}
		}
	}
	return err
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
