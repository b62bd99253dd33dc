package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrChart is wrapped by errors about charts that cannot be drawn.
var ErrChart = errors.New("chart: cannot be drawn")

const (
	width   = 760.0
	font    = 12.0
	perChar = 6.6 // approximate width of a character in units
)

// colours are the colours of the series in order, on light and on dark pages.
var colours = [...][2]string{
	{"#c0392b", "#ff7b6b"}, {"#3b6ea5", "#79b0e8"}, {"#2e8b57", "#5fd39b"},
	{"#b9770e", "#f0b952"}, {"#7d3c98", "#c79be0"}, {"#5d6d7e", "#aab7c4"},
}

// dashes distinguish lines without colour.
var dashes = [...]string{"", "7 3", "2 3", "9 3 2 3", "5 5", "12 4"}

// canvas collects the elements of a picture.
type canvas struct{ bytes.Buffer }

// escape makes s safe in text and in attributes.
func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a Builder does not fail
	return b.String()
}

func (c *canvas) rect(class string, x, y, w, h float64) {
	fmt.Fprintf(c, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`+"\n", class, x, y, w, h)
}

func (c *canvas) line(class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(c, `<path class="%s" d="M%.1f %.1fL%.1f %.1f"/>`+"\n", class, x1, y1, x2, y2)
}

// text writes s with its anchor ("start", "middle" or "end") at x, and its base
// line at y.
func (c *canvas) text(anchor string, x, y float64, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, escape(s))
}

// upright writes s turned to be read from below, its middle at y.
func (c *canvas) upright(x, y float64, s string) {
	fmt.Fprintf(c, `<text transform="translate(%.1f %.1f) rotate(-90)" text-anchor="middle">%s</text>`+"\n", x, y, escape(s))
}

func (c *canvas) title(s string) {
	fmt.Fprintf(c, `<text class="title" x="16" y="26">%s</text>`+"\n", escape(s))
}

// key writes the legend from y on, in one or more rows, and returns the position of its end.
// mark draws the mark of series i in 18 by 10 units.
func (c *canvas) key(y float64, names []string, mark func(i int, x, y float64)) float64 {
	x := 16.0
	for i, name := range names {
		w := 18 + 6 + textWidth(name) + 18
		if x > 16 && x+w > width {
			x, y = 16, y+font+6
		}
		mark(i, x, y-9)
		c.text("start", x+24, y, name)
		x += w
	}
	return y
}

// writeTo writes a picture with the given height and the collected elements.
func (c *canvas) writeTo(w io.Writer, height float64, title string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img" font-family="sans-serif" font-size="%.0f">`+"\n",
		width, height, font)
	fmt.Fprintf(&b, "<title>%s</title>\n<style>\n%s</style>\n", escape(title), style())
	fmt.Fprintf(&b, `<rect class="page" width="%.0f" height="%.0f"/>`+"\n", width, height)
	b.Write(c.Bytes())
	b.WriteString("</svg>\n")
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("chart: writing %q: %w", title, err)
	}
	return nil
}

// style returns the style sheet, with the colours for light and for dark pages.
func style() string {
	var b strings.Builder
	b.WriteString("text{fill:#222}.title{font-size:15px}.page{fill:#fff}.grid{stroke:#ddd}.axis{stroke:#888}path{fill:none}\n")
	for i, c := range colours {
		fmt.Fprintf(&b, ".f%d{fill:%s}.s%d{stroke:%s;stroke-width:2", i, c[0], i, c[0])
		if d := dashes[i%len(dashes)]; d != "" {
			b.WriteString(";stroke-dasharray:" + d)
		}
		b.WriteString("}\n")
	}
	b.WriteString("@media (prefers-color-scheme: dark){\ntext{fill:#ddd}.page{fill:#0d1117}.grid{stroke:#30363d}.axis{stroke:#768390}\n")
	for i, c := range colours {
		fmt.Fprintf(&b, ".f%d{fill:%s}.s%d{stroke:%s}\n", i, c[1], i, c[1])
	}
	b.WriteString("}\n")
	return b.String()
}

func textWidth(s string) float64 { return perChar * float64(len([]rune(s))) }
