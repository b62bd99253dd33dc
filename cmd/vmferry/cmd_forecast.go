package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qemu/forecast"
	"github.com/vmferry/vmferry/qmp"
)

type forecastCmd struct {
	QMP           string        `required:"" name:"qmp" help:"QMP socket of the machine." placeholder:"PATH"`
	Bandwidth     byteSize      `default:"0" help:"Bytes per second that the link carries, such as 110MiB; without it the forecast is for 100 Mb/s and for 1, 10 and 25 Gb/s." placeholder:"SIZE"`
	DowntimeLimit time.Duration `default:"300ms" help:"How long the machine may be paused at the end." placeholder:"TIME"`
	MaxRounds     int           `default:"30" help:"Number of rounds after which a migration counts as diverging." placeholder:"N"`
	CPUs          float64       `name:"cpus" default:"1" help:"Processors that compress at the same time." placeholder:"N"`
	Measure       time.Duration `default:"4s" help:"Longest time over which QEMU measures the dirty rate, 2s to 1m." placeholder:"TIME"`
	Mode          string        `default:"page-sampling" enum:"page-sampling,dirty-bitmap,dirty-ring" help:"How QEMU measures the dirty rate: ${enum}. Only page-sampling works without KVM, and it costs the machine nothing."`
	JSON          bool          `name:"json" help:"Write JSON."`
}

func (c *forecastCmd) Run(a *app) error {
	if c.DowntimeLimit <= 0 || c.MaxRounds < 1 || !(c.CPUs > 0) || math.IsInf(c.CPUs, 0) {
		return usagef("--downtime-limit, --max-rounds and --cpus have to be more than 0")
	}
	if c.Measure < 2*time.Second || c.Measure > time.Minute {
		return usagef("--measure: want 2s to 1m")
	}
	r, err := vmferry.Forecast(a.ctx, qemu.ForecastOptions{
		Monitor: qmp.Socket(c.QMP), Bandwidth: uint64(c.Bandwidth), Downtime: c.DowntimeLimit, MaxRounds: c.MaxRounds,
		Processors: c.CPUs, Measure: c.Measure, Mode: qmp.DirtyRateMode(c.Mode),
	})
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	return printForecast(a.stdout, r)
}

func printForecast(out io.Writer, r *qemu.ForecastResult) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("machine", "%s, QEMU %s, %s of memory", shortName(r.RunState), r.QEMU, size(r.Memory))
	for _, reason := range r.Blocked {
		row("cannot migrate", "%s", shortName(reason))
	}
	row("sampled", "%d pages: %s are zero, %d have the content of another one, %d changed meanwhile",
		r.Sample.Pages, percent(r.Sample.Zero), r.Sample.Identical, r.Sample.Changed)
	for _, d := range r.Windows {
		row("dirty", "%s to %s after %s (%s)", size(d.Bytes.Low), size(d.Bytes.High), d.Time, r.DirtyRate)
	}
	if len(r.Windows) == 0 {
		row("dirty", "nothing: the machine does not run")
	}
	for _, m := range r.Methods {
		if m.Speed.High > 0 {
			row(m.Name, "compresses to %s, pages that the machine writes again to %s; %s/s on one processor",
				percent(m.First), percent(m.Again), size(m.Speed.High))
		}
	}
	row("processor", "%s, %g of them", shortName(r.Processor), r.Processors)
	row("reading", "%d pages, for which QEMU took %s, at most %s for one", r.Reading.Calls, r.Reading.Total.Round(time.Millisecond), r.Reading.Longest.Round(time.Microsecond))
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprint(w, "\nlink\tmethod\tconverges\ttotal\tdowntime\ton the link\n")
	for _, l := range r.Links {
		link := bitRate(l.Bandwidth)
		for _, p := range l.Methods {
			printPrediction(w, link, p.Method, p)
			link = ""
		}
		printPrediction(w, "", "auto ("+l.Auto.Method+")", l.Auto)
	}
	return w.Flush()
}

// printPrediction writes a line of the table of links.
func printPrediction(w io.Writer, link, method string, p forecast.Prediction) {
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", link, method, p.Converges,
		span(p.Total, shortSeconds), span(p.Downtime, shortSeconds), span(p.LinkBytes, size[float64]))
}

// span writes a range whose high end may be unknown.
func span(s *forecast.Span, text func(float64) string) string {
	switch {
	case s == nil:
		return "no end"
	case s.High == nil:
		return text(s.Low) + " or no end"
	}
	return text(s.Low) + " to " + text(*s.High)
}

func shortSeconds(s float64) string {
	digits := 2
	if s >= 10 {
		digits = 0
	}
	return fmt.Sprintf("%.*f s", digits, s)
}

func percent(r forecast.Range) string {
	return fmt.Sprintf("%.0f to %.0f %%", r.Low*100, r.High*100)
}

// bitRate writes bytes a second as networks do.
func bitRate(bytes uint64) string {
	bits := float64(bytes) * 8
	for _, unit := range []struct {
		name string
		bits float64
	}{{"Gb/s", 1e9}, {"Mb/s", 1e6}, {"kb/s", 1e3}} {
		if bits >= unit.bits {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", bits/unit.bits), ".0") + " " + unit.name
		}
	}
	return fmt.Sprintf("%.0f b/s", bits)
}
