package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteText writes the report as tables of text.
func (r *Report) WriteText(to io.Writer) error {
	w := new(bytes.Buffer)
	fmt.Fprintf(w, "Guest memory of %d MiB, medians of %d runs. Page faults per 1,000 pages of their kind; set-up: of all pages.\n\n",
		r.Memory>>20, r.Runs)
	r.memoryTable(w)
	fmt.Fprintf(w, "\nOne channel's buffer, %d packets of %d pages. Page faults per 1,000 pages.\n\n", packets, packetPages)
	r.bufferTable(w)
	for _, n := range r.NotRead {
		fmt.Fprintf(w, "\nnot read: %s: %s\n", n.Counter, n.Reason)
	}
	_, err := w.WriteTo(to)
	return err
}

func (r *Report) memoryTable(w *bytes.Buffer) {
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
	t.Flush() // a Buffer does not fail
}

func orDash(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f", *v)
}

func (r *Report) bufferTable(w *bytes.Buffer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "direction\tbuffers\tfirst packet\tlater packets\tset-up us\tfirst us\tlater us")
	for _, x := range r.Buffers {
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\n",
			x.Direction, x.Buffers, x.FirstFaults, x.LaterFaults, x.SetupUS, x.FirstUS, x.LaterUS)
	}
	t.Flush() // a Buffer does not fail
}

// WriteJSON writes one object a line. The key bench is "memory", "buffers", or "not-read"
// for counters that cannot be read on this machine.
func (r *Report) WriteJSON(w io.Writer) error {
	return errors.Join(writeLines(w, "memory", r.Rows), writeLines(w, "buffers", r.Buffers), writeLines(w, "not-read", r.NotRead))
}

// writeLines writes objects with the additional key bench.
func writeLines[T any](w io.Writer, bench string, objects []T) error {
	for _, o := range objects {
		text, err := json.Marshal(o)
		if err == nil {
			_, err = fmt.Fprintf(w, "{\"bench\":%q,%s\n", bench, text[1:])
		}
		if err != nil {
			return err
		}
	}
	return nil
}
