package iaaprobe

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Text returns the report as text: the costs that it depends on, and the tables.
func (b *Probe) Text() string {
	by := "on hardware"
	if len(b.cfg.Devices) == 0 {
		by = "on the processor alone"
	}
	return fmt.Sprintf("Measured %s. Software compresses a page in %v and inflates one in %v.\n\n", by, b.Costs.Compress, b.Costs.Inflate) + b.Tables()
}

// Tables returns a table of the rows, and the gain of hybrid mode.
func (b *Probe) Tables() string {
	var out strings.Builder
	tw := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "direction\tby\tdevices\tmemory\tGB/s\tengines busy\tfaults\thardware\tCPU\n")
	for _, x := range b.Rows {
		busy := "-"
		if x.Busy > 0 {
			busy = fmt.Sprintf("%.0f %%", 100*x.Busy)
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%.2f\t%s\t%d\t%.0f %%\t%.0f %%\n", x.Direction, x.Mode, x.Devices, x.Memory,
			x.Rate/1e9, busy, x.Faults, 100*x.Hardware, 100*x.Software)
	}
	tw.Flush() // a Builder does not fail
	if len(b.cfg.Devices) > 0 {
		fmt.Fprintf(&out, "\nHybrid adds this part of what the CPU does alone (%d channels):\n", b.Channels)
	}
	for _, dir := range []Direction{Compress, Inflate} {
		for _, n := range b.cfg.Devices {
			fmt.Fprintf(&out, "  %s, %d devices: %.0f %%\n", dir, n, 100*b.Gain(dir, n))
		}
	}
	return out.String()
}
