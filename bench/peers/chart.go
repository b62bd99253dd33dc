package main

import (
	"bytes"
	"fmt"
	"math"
	"strings"

	"github.com/vmferry/vmferry/internal/probe/codec"
)

// The chart's frame, in pixels.
const (
	chartWidth, chartHeight = 760, 480
	left, right             = 64, 24
	top, bottom             = 44, 52
)

// axis maps values to pixels.
type axis struct {
	from, to   float64 // values
	start, end float64 // pixels
}

func (a axis) at(v float64) float64 {
	return a.start + (v-a.from)/(a.to-a.from)*(a.end-a.start)
}

// drawChart draws compression speed, on a logarithmic scale, against ratio.
func drawChart(results []codec.Result) []byte {
	fastest, slowest, densest := 0.0, math.Inf(1), 0.0
	for _, r := range results {
		fastest, slowest = max(fastest, r.CompressMBps), min(slowest, r.CompressMBps)
		densest = max(densest, r.Ratio)
	}
	x := axis{math.Log2(slowest / 1.3), math.Log2(fastest * 1.5), left, chartWidth - right}
	y := axis{1.9, math.Ceil(densest*10+1) / 10, chartHeight - bottom, top}

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		chartWidth, chartHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", chartWidth, chartHeight)
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="15">Guest pages of 4 KiB, one core: speed against ratio</text>`+"\n", left)
	for _, mbps := range []float64{50, 100, 200, 400, 800, 1600, 3200} {
		if p := x.at(math.Log2(mbps)); p > left && p < chartWidth-right {
			fmt.Fprintf(&b, `<path d="M%.0f %dV%d" stroke="#ddd"/><text x="%.0f" y="%d" text-anchor="middle">%.0f</text>`+"\n",
				p, top, chartHeight-bottom, p, chartHeight-bottom+18, mbps)
		}
	}
	for ratio := y.from; ratio < y.to+0.001; ratio += 0.1 {
		fmt.Fprintf(&b, `<path d="M%d %.0fH%d" stroke="#ddd"/><text x="%d" y="%.0f" text-anchor="end">%.1f</text>`+"\n",
			left, y.at(ratio), chartWidth-right, left-8, y.at(ratio)+4, ratio)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">compression, MB/s (logarithmic)</text>`+"\n",
		(left+chartWidth-right)/2, chartHeight-12)
	fmt.Fprintf(&b, `<text transform="translate(18 %d) rotate(-90)" text-anchor="middle">ratio</text>`+"\n",
		(top+chartHeight-bottom)/2)
	var labels [][2]float64
	for _, r := range results {
		colour, weight := "#5577aa", "normal"
		if strings.HasPrefix(r.Codec, "deflate-") {
			colour, weight = "#c0392b", "bold"
		}
		px, py := x.at(math.Log2(r.CompressMBps)), y.at(r.Ratio)
		place := [2]float64{px + 8, py - 6}
		if crowded(labels, place) {
			place[1] = py + 16
		}
		labels = append(labels, place)
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="5" fill="%s"/><text x="%.1f" y="%.1f" fill="%s" font-weight="%s">%s</text>`+"\n",
			px, py, colour, place[0], place[1], colour, weight, label(r))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// crowded reports whether a label overlaps one of the labels.
func crowded(labels [][2]float64, label [2]float64) bool {
	const width, height = 150, 13
	for _, l := range labels {
		if math.Abs(l[0]-label[0]) < width && math.Abs(l[1]-label[1]) < height {
			return true
		}
	}
	return false
}
