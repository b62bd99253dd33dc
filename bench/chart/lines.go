package chart

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Point is a point on a line.
type Point struct{ X, Y float64 }

// Series is the points of one line, in any order of X.
type Series struct {
	Name   string
	Points []Point
}

// Lines is a chart of lines over a common X axis.
type Lines struct {
	Title string
	// X and Y are the names of the axes with their units.
	X, Y string
	// LogX makes the X axis logarithmic.
	LogX   bool
	Series []Series
}

// marked is the largest number of points for which each point of a line has a mark.
const marked = 40

// WriteSVG draws the chart. The Y axis includes 0. The error wraps ErrChart if there is no
// point, if a point is not finite, or if an X is not above 0 with LogX.
func (l Lines) WriteSVG(w io.Writer) error {
	xs, ys, err := l.check()
	if err != nil {
		return err
	}
	names := make([]string, len(l.Series))
	for i, s := range l.Series {
		names[i] = s.Name
	}
	c := new(canvas)
	c.title(l.Title)
	top := 24 + c.key(50, names, func(i int, x, y float64) { c.line(stroke(i), x, y+5, x+18, y+5) })
	bottom := top + 280
	x, y := l.axes(xs, ys, top, bottom)
	l.frame(c, x, y, top, bottom)
	for i, s := range l.Series {
		draw(c, i, s, x, y)
	}
	return c.writeTo(w, bottom+52, l.Title)
}

func stroke(i int) string { return fmt.Sprintf("s%d", i%len(colours)) }

// check returns all values of both axes.
func (l *Lines) check() (xs, ys []float64, err error) {
	for _, s := range l.Series {
		for _, p := range s.Points {
			if sum := p.X + p.Y; math.IsNaN(sum) || math.IsInf(sum, 0) {
				return nil, nil, fmt.Errorf("%w: %q: %q has a point at (%v, %v)", ErrChart, l.Title, s.Name, p.X, p.Y)
			}
			if l.LogX && p.X <= 0 {
				return nil, nil, fmt.Errorf("%w: %q: %q has a point at %v, which has no logarithm", ErrChart, l.Title, s.Name, p.X)
			}
			xs, ys = append(xs, p.X), append(ys, p.Y)
		}
	}
	if len(xs) == 0 {
		return nil, nil, fmt.Errorf("%w: %q has no points", ErrChart, l.Title)
	}
	return xs, ys, nil
}

func (l *Lines) axes(xs, ys []float64, top, bottom float64) (x, y *axis) {
	y = linear(min(0, slices.Min(ys)), max(0, slices.Max(ys)), bottom, top, 5)
	if l.LogX {
		// The outer points are measurements, so they must not be on the frame.
		return logarithmic(xs, left+24, width-right-24), y
	}
	return linear(slices.Min(xs), slices.Max(xs), left, width-right, 8), y
}

func (l *Lines) frame(c *canvas, x, y *axis, top, bottom float64) {
	for _, v := range y.ticks {
		c.line("grid", left, y.at(v), width-right, y.at(v))
		c.text("end", left-8, y.at(v)+4, number(v))
	}
	for _, v := range x.ticks {
		c.line("grid", x.at(v), top, x.at(v), bottom)
		c.text("middle", x.at(v), bottom+18, number(v))
	}
	c.line("axis", left, y.at(0), width-right, y.at(0))
	c.line("axis", left, top, left, bottom)
	c.text("middle", (left+width-right)/2, bottom+40, l.X)
	c.upright(20, (top+bottom)/2, l.Y)
}

// draw draws one line, from left to right.
func draw(c *canvas, i int, s Series, x, y *axis) {
	points := slices.SortedStableFunc(slices.Values(s.Points), func(a, b Point) int { return cmp.Compare(a.X, b.X) })
	if len(points) == 0 {
		return
	}
	var d strings.Builder
	for j, p := range points {
		step := "L"
		if j == 0 {
			step = "M"
		}
		fmt.Fprintf(&d, "%s%.1f %.1f", step, x.at(p.X), y.at(p.Y))
	}
	fmt.Fprintf(c, `<path class="%s" stroke-linejoin="round" d="%s"/>`+"\n", stroke(i), d.String())
	if len(points) > marked {
		return
	}
	for _, p := range points {
		fmt.Fprintf(c, `<circle class="%s" cx="%.1f" cy="%.1f" r="3"/>`+"\n", fill(i), x.at(p.X), y.at(p.Y))
	}
}
