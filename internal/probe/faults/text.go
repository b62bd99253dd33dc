package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteText writes the tables for people.
func (r *Report) WriteText(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "Guest memory of %d MiB, medians of %d runs. Page faults per 1,000 pages of their kind; set-up: of all pages.\n\n",
		r.Memory>>20, r.Runs); err != nil {
		return err
	}
	if err := r.memoryTable(w); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "\nOne channel's buffer, %d packets of %d pages. Page faults per 1,000 pages.\n\n", packets, packetPages); err != nil {
		return err
	}
	if err := r.bufferTable(w); err != nil {
		return err
	}
	for _, n := range r.NotRead {
		if _, err := fmt.Fprintf(w, "\nnot read: %s: %s\n", n.Counter, n.Reason); err != nil {
			return err
		}
	}
	return nil
}

func (r *Report) memoryTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "memory\tpath\tpolicy\tdata\tzero\tlater: arrival\twrite\tset-up\tset-up ms\tarrival ms\twrite ms\tMB/s\tTLB shoot-downs\tdTLB load misses\tstore misses")
	for _, x := range r.Rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t", x.Memory, x.Path, x.Policy)
		if x.Figures == nil {
			fmt.Fprintf(t, "not available: %s\n", x.Unavailable)
			continue
		}
		fmt.Fprintf(t, "%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t%.0f\t%s\t%s\t%s\n",
			x.DataFaults, x.ZeroFaults, x.LaterArrivalFaults, x.LaterWriteFaults, x.SetupFaults,
			x.SetupMS, x.ArrivalMS, x.WriteMS, x.MBps,
			orDash(x.TLBShootdowns), orDash(x.DTLBLoadMisses), orDash(x.DTLBStoreMisses))
	}
	return t.Flush()
}

func orDash(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f", *v)
}

func (r *Report) bufferTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "direction\tbuffers\tfirst packet\tlater packets\tset-up us\tfirst us\tlater us")
	for _, x := range r.Buffers {
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\n",
			x.Direction, x.Buffers, x.FirstFaults, x.LaterFaults, x.SetupUS, x.FirstUS, x.LaterUS)
	}
	return t.Flush()
}

// WriteJSON writes one object a line: what was measured, in the key bench, is
// "memory", "buffers" or, for counters that this machine does not show,
// "not-read".
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	for _, x := range r.Rows {
		if err := enc.Encode(struct {
			Bench string `json:"bench"`
			Row
		}{"memory", x}); err != nil {
			return err
		}
	}
	for _, x := range r.Buffers {
		if err := enc.Encode(struct {
			Bench string `json:"bench"`
			BufferRow
		}{"buffers", x}); err != nil {
			return err
		}
	}
	for _, x := range r.NotRead {
		if err := enc.Encode(struct {
			Bench string `json:"bench"`
			NotRead
		}{"not-read", x}); err != nil {
			return err
		}
	}
	return nil
}
