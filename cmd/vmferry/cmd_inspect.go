package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/vmstate"
)

type inspectCmd struct {
	JSON     bool   `name:"json" help:"Write JSON."`
	Snapshot string `arg:"" help:"Snapshot to describe."`
}

func (c *inspectCmd) Run(a *app) error {
	m, err := vmferry.Inspect(a.ctx, vmferry.Snapshot{Path: c.Snapshot})
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(m)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("created", "%s by %s", m.Created.Format("2006-01-02 15:04:05 MST"), shortName(m.Tool))
	row("machine", "%s, run state %q (was %s when it was saved), uuid %s", shortName(m.Machine.Type), m.Machine.RunState, runStateText(m.Machine.RunState), orNone(m.Machine.UUID))
	if m.Machine.QEMU != "" {
		row("saved from", "QEMU %s", shortName(m.Machine.QEMU))
	}
	row("memory", "%s in %d blocks, pages of %d bytes", size(memoryOf(m)), len(m.Blocks), m.Machine.PageSize)
	row("pages", "%d kept, %d zero", m.Totals.Pages, m.Totals.Zero)
	row("stored as", "%s: %s of pages in %d extents, %s of index, %s in all", m.Store, size(m.Totals.PageBytes), m.Totals.Extents, size(m.Totals.IndexBytes), size(m.Bytes))
	if m.Totals.PageBytes > 0 {
		row("ratio", "%.2f of what is not zero", float64(m.Totals.Pages)*float64(m.Machine.PageSize)/float64(m.Totals.PageBytes))
	}
	if m.Described {
		row("devices", "%d", len(m.Devices))
	} else {
		row("devices", "unknown: the stream has no description of them")
	}
	fmt.Fprint(w, "\nRAM block\tlength\tpages kept\n")
	for _, b := range m.Blocks {
		fmt.Fprintf(w, "%s\t%s\t%d\n", shortName(b.Name), size(b.Length), b.Pages)
	}
	fmt.Fprint(w, "\nobject\trole\tsize\n")
	for _, o := range m.Objects {
		fmt.Fprintf(w, "%s\t%s\t%s\n", shortName(o.Name), shortName(string(o.Role)), size(o.Size))
	}
	listDevices(w, m.Devices)
	return w.Flush()
}

// memoryOf returns the bytes of guest memory.
func memoryOf(m *vmferry.Inspection) (n uint64) {
	for _, b := range m.Blocks {
		n += b.Length
	}
	return n
}

// maxListedDevices bounds the lines that inspect prints of devices: a
// description can name as many as its length allows.
const maxListedDevices = 1000

func listDevices(w io.Writer, devices []vmstate.DeviceDescription) {
	if len(devices) == 0 {
		return
	}
	fmt.Fprint(w, "\ndevice section\tinstance\tstate\n")
	for _, d := range devices[:min(len(devices), maxListedDevices)] {
		fmt.Fprintf(w, "%s\t%d\t%s\n", shortName(d.Name), d.Instance, orNone(d.State))
	}
	if more := len(devices) - maxListedDevices; more > 0 {
		fmt.Fprintf(w, "and %d more, which --json lists\n", more)
	}
}

// shortName makes a name that a snapshot says fit for a table.
func shortName(s string) string { return termtext.ShortName(s, guest.MaxNameLen) }

// runStateText is how a snapshot's run state is read: it says what the machine
// did until its save ended, whatever state it was left in.
func runStateText(state string) string {
	if state == "" {
		return "in an unknown state"
	}
	return shortName(state)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return shortName(s)
}

type verifyCmd struct {
	JSON     bool   `name:"json" help:"Write JSON."`
	Snapshot string `arg:"" help:"Snapshot to check."`
}

func (c *verifyCmd) Run(a *app) error {
	p := a.newProgress(c.JSON)
	v, err := vmferry.Verify(a.ctx, vmferry.Snapshot{Path: c.Snapshot}, p.report)
	p.end()
	if err != nil {
		return err
	}
	return p.result(a, c.JSON, v, "%s: sound: %d objects, %s, %d pages\n", c.Snapshot, v.Objects, size(v.Bytes), v.Pages)
}
