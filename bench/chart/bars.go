package chart

import (
	"fmt"
	"io"
	"math"
	"slices"
)

// Bar is one value. Bars with the same name have the same colour and one entry in the legend.
type Bar struct {
	Name string
	// Value is the length of the bar, 0 or more. NaN is an unknown value, which is
	// drawn as a dash.
	Value float64
}

// Group is a group of bars, one below the other, with a name beside them.
type Group struct {
	Name string
	Bars []Bar
}

// Bars is a chart of groups of bars from left to right, whose axis starts at 0.
type Bars struct {
	Title string
	// Unit is the name of the axis with its unit, such as "faults per 1,000 pages".
	Unit   string
	Groups []Group
}

// WriteSVG draws the chart. The error wraps ErrChart if there is no bar, or if a bar is
// negative or infinite.
func (b Bars) WriteSVG(w io.Writer) error {
	names, highest, err := b.check()
	if err != nil {
		return err
	}
	c := new(canvas)
	c.title(b.Title)
	top := c.key(50, names, func(i int, x, y float64) { c.rect(fill(i), x, y, 18, 10) })
	height := b.draw(c, names, highest, top+20)
	return c.writeTo(w, height, b.Title)
}

func fill(i int) string { return fmt.Sprintf("f%d", i%len(colours)) }

// check returns the bars' names in order and their largest value.
func (b *Bars) check() (names []string, highest float64, err error) {
	for _, g := range b.Groups {
		for _, bar := range g.Bars {
			if bar.Value < 0 || math.IsInf(bar.Value, 0) {
				return nil, 0, fmt.Errorf("%w: %q: bar %q of %q is %v", ErrChart, b.Title, bar.Name, g.Name, bar.Value)
			}
			if !slices.Contains(names, bar.Name) {
				names = append(names, bar.Name)
			}
			if bar.Value > highest { // false for NaN
				highest = bar.Value
			}
		}
	}
	if len(names) == 0 {
		return nil, 0, fmt.Errorf("%w: %q has no bars", ErrChart, b.Title)
	}
	return names, highest, nil
}

// label returns the text at the end of a bar.
func (b Bar) label() string {
	if math.IsNaN(b.Value) {
		return "–"
	}
	return number(b.Value)
}

// length returns the value, or 0 if it is not known.
func (b Bar) length() float64 {
	if math.IsNaN(b.Value) {
		return 0
	}
	return b.Value
}

const left, right = 72.0, 24.0

// draw draws all bars and returns the position below them.
func (b *Bars) draw(c *canvas, names []string, highest, top float64) float64 {
	const each, gap = 16.0, 12.0
	start := 0.0
	total := gap
	for _, g := range b.Groups {
		start = max(start, textWidth(g.Name))
		total += each*float64(len(g.Bars)) + gap
	}
	start = min(start+28, width/2)
	bottom := top + total
	// 40 units are for the label of the longest bar.
	x := linear(0, highest, start, width-right-40, 6)
	for _, v := range x.ticks {
		c.line("grid", x.at(v), top, x.at(v), bottom)
		c.text("middle", x.at(v), bottom+16, number(v))
	}
	y := top + gap
	for _, g := range b.Groups {
		high := each * float64(len(g.Bars))
		c.text("end", start-8, y+high/2+4, g.Name)
		for _, bar := range g.Bars {
			end := x.at(bar.length())
			c.rect(fill(slices.Index(names, bar.Name)), start, y+1, end-start, each-2)
			c.text("start", end+5, y+each/2+4, bar.label())
			y += each
		}
		y += gap
	}
	c.line("axis", start, top, start, bottom)
	c.text("middle", (start+width-right-40)/2, bottom+36, b.Unit)
	return bottom + 48
}
