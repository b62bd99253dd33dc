package faults

import (
	"bytes"
	"fmt"
	"io"
)

// bars are the groups of the chart: the pages, their memory, and the faults to draw.
var bars = []struct {
	name   string
	memory Kind
	faults func(*Figures) float64
}{
	{"data", None, func(f *Figures) float64 { return f.DataFaults }},
	{"zero, never written", None, func(f *Figures) float64 { return f.ZeroFaults }},
	{"zero first, written later", None, later},
	{"the same, in a private memfd", PrivateFile, later},
	{"all pages, touched before", Touch, all},
	{"all pages, populated before", Populate, all},
	{"all pages, huge pages", HugeTLB, all},
	{"all pages, transparent huge pages", Transparent, all},
}

func later(f *Figures) float64 { return f.LaterArrivalFaults + f.LaterWriteFaults }

// all returns the faults per 1,000 pages of the whole memory.
func all(f *Figures) float64 { return (f.DataFaults + f.ZeroFaults + later(f)) / 3 }

// WriteChart draws the faults of the direct path as SVG: the faults of each kind of page in
// memory that is not preallocated, and of all pages in preallocated memory.
func (r *Report) WriteChart(w io.Writer) error {
	const left, unit, top, each, group = 260, 0.2, 84, 16, 44 // unit is of one fault
	bottom := top + group*len(bars)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 %d" font-family="sans-serif" font-size="12">
<style>text{fill:#222}path{stroke:#ddd}.page{fill:#fff}.f0{fill:#c0392b}.f1{fill:#3b6ea5}
@media (prefers-color-scheme: dark){text{fill:#ddd}path{stroke:#30363d}.page{fill:#0d1117}.f0{fill:#ff7b6b}.f1{fill:#79b0e8}}</style>
<rect class="page" width="760" height="%d"/>
<text x="16" y="26" font-size="15">What a destination pays for guest memory, by its policy towards zero pages</text>
<text x="%d" y="%d" text-anchor="middle">page faults per 1,000 pages</text>
`, bottom+48, bottom+48, left+200, bottom+38)
	for faults := 0; faults <= 2000; faults += 500 {
		x := left + unit*float64(faults)
		fmt.Fprintf(&b, `<path d="M%.0f %dV%d"/><text x="%.0f" y="%d" text-anchor="middle">%s</text>`+"\n", x, top-12, bottom, x, bottom+16, number(float64(faults)))
	}
	for p, policy := range []Policy{ScanZeros, ReceivedBitmap} {
		fmt.Fprintf(&b, `<rect class="f%d" x="%d" y="40" width="18" height="10"/><text x="%d" y="50">%s</text>`+"\n", p, 16+120*p, 40+120*p, policy)
		for i, g := range bars {
			y, length, label := top+group*i+each*p, 0.0, "–"
			if f := r.figures(Cell{g.memory, policy, Direct}); f != nil {
				length, label = unit*min(g.faults(f), 2200), number(g.faults(f))
			}
			if p == 0 {
				fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, y+each+4, g.name)
			}
			fmt.Fprintf(&b, `<rect class="f%d" x="%d" y="%d" width="%.1f" height="%d"/><text x="%.1f" y="%d">%s</text>`+"\n", p, left, y+1, length, each-2, left+length+5, y+each-4, label)
		}
	}
	b.WriteString("</svg>\n")
	_, err := w.Write(b.Bytes())
	return err
}

// number formats v without a fraction and with a separator for thousands.
func number(v float64) string {
	if n := int(v + 0.5); n >= 1000 {
		return fmt.Sprintf("%d,%03d", n/1000, n%1000)
	}
	return fmt.Sprintf("%.0f", v)
}

// figures returns the figures of a cell, or nil.
func (r *Report) figures(c Cell) *Figures {
	for _, x := range r.Rows {
		if x.Cell == c {
			return x.Figures
		}
	}
	return nil
}
