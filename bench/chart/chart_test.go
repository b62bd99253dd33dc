package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

// svg is a chart of either kind.
type svg interface{ WriteSVG(io.Writer) error }

var (
	columns = Bars{
		Title: "Page faults of the destination", Unit: "faults per 1,000 pages",
		Groups: []Group{
			{"data", []Bar{{"scan zeros", 1000}, {"received bitmap", 1000}}},
			{"zero, never written", []Bar{{"scan zeros", 1000}, {"received bitmap", 0}}},
			{"zero first and written later on", []Bar{{"scan zeros", 2000.5}, {"received bitmap", 1000}}},
			{"huge pages", []Bar{{"scan zeros", math.NaN()}, {"received bitmap", 0}}},
		},
	}
	rows = Bars{
		Title: "Dirty pages <found> & sent", Unit: `time, "ms"`,
		Groups: []Group{
			{"userfaultfd, 1 thread", []Bar{{"a", 12.345}, {"b", 0.04}}},
			{"soft-dirty", []Bar{{"a", 3}}},
			{"KVM's log", []Bar{{"a", 1}, {"b", 7.5}}},
		},
	}
	curves = Lines{
		Title: "Throughput by channels", X: "channels", Y: "MB/s", LogX: true,
		Series: []Series{
			{"none", []Point{{1, 900}, {2, 1700}, {4, 2600}, {8, 2700}}},
			{"qpl", []Point{{8, 1500}, {1, 400}, {2, 790}, {4, 1420}}},
			{"zstd", []Point{{1, 120}, {2, 240}, {4, 470}, {8, 800}}},
		},
	}
	plain = Lines{
		Title: "Remaining memory", X: "time, s", Y: "change, MiB",
		Series: []Series{{"a", []Point{{0, 0}, {0.5, -20}, {1, 35}, {1.5, 12}}}},
	}
)

func TestWriteSVG_GoldenFiles(t *testing.T) {
	for name, c := range map[string]svg{"groups": columns, "rows": rows, "curves": curves, "plain": plain} {
		var got bytes.Buffer
		if err := c.WriteSVG(&got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		file := filepath.Join("testdata", name+".svg")
		if *update {
			if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s differs: look at it, then run go test ./chart -update", name)
		}
	}
}

// texts parses a chart and returns the texts in it.
func texts(t *testing.T, c svg) []string {
	t.Helper()
	var b bytes.Buffer
	if err := c.WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	var texts []string
	inside := false
	for d := xml.NewDecoder(&b); ; {
		token, err := d.Token()
		if err == io.EOF {
			return texts
		}
		if err != nil {
			t.Fatalf("not XML: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			inside = token.Name.Local == "text"
		case xml.EndElement:
			inside = false
		case xml.CharData:
			if inside {
				texts = append(texts, string(token))
			}
		}
	}
}

func TestWriteSVG_HasEveryName(t *testing.T) {
	for _, c := range []struct {
		chart svg
		want  []string
	}{
		{columns, []string{"Page faults of the destination", "faults per 1,000 pages", "scan zeros", "received bitmap", "data", "2,000", "–"}},
		{rows, []string{"Dirty pages <found> & sent", `time, "ms"`, "KVM's log", "12.3", "0.04"}},
		{curves, []string{"Throughput by channels", "channels", "MB/s", "none", "qpl", "zstd", "8", "3,000"}},
		{plain, []string{"Remaining memory", "-20", "1.6"}},
	} {
		got := texts(t, c.chart)
		for _, want := range c.want {
			if !slices.Contains(got, want) {
				t.Errorf("%q is not among %q", want, got)
			}
		}
	}
}

func TestBars_AreAsLongAsTheirValues(t *testing.T) {
	var b bytes.Buffer
	if err := (Bars{Groups: []Group{{"g", []Bar{{"a", 50}, {"b", 100}, {"c", 0}}}}}).WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	// The axis ends at 100 and is 661.4 units long; a bar is 14 high.
	for _, want := range []string{`width="330.7" height="14.0"`, `width="661.4" height="14.0"`, `width="0.0" height="14.0"`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in the chart", want)
		}
	}
}

func TestWriteSVG_RefusesWhatCannotBeDrawn(t *testing.T) {
	one := func(x, y float64) []Series { return []Series{{"s", []Point{{x, y}}}} }
	for name, c := range map[string]svg{
		"no groups":         Bars{},
		"no bars":           Bars{Groups: []Group{{Name: "g"}}},
		"negative bar":      Bars{Groups: []Group{{"g", []Bar{{"a", -1}}}}},
		"infinite bar":      Bars{Groups: []Group{{"g", []Bar{{"a", math.Inf(1)}}}}},
		"no series":         Lines{},
		"no points":         Lines{Series: []Series{{Name: "s"}}},
		"point nowhere":     Lines{Series: one(1, math.NaN())},
		"infinite point":    Lines{Series: one(math.Inf(-1), 1)},
		"logarithm of zero": Lines{LogX: true, Series: one(0, 1)},
	} {
		if err := c.WriteSVG(io.Discard); !errors.Is(err, ErrChart) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// full is a disk without room.
type full struct{}

var errFull = errors.New("no room")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestWriteSVG_ReturnsTheWriteError(t *testing.T) {
	for _, c := range []svg{columns, curves} {
		if err := c.WriteSVG(full{}); !errors.Is(err, errFull) {
			t.Errorf("error %v", err)
		}
	}
}

func TestWriteSVG_OneValueMakesAnAxis(t *testing.T) {
	for name, c := range map[string]svg{
		"a bar of 0":    Bars{Groups: []Group{{"g", []Bar{{"a", 0}}}}},
		"one point":     Lines{Series: []Series{{"s", []Point{{5, 0}}}}},
		"one point log": Lines{LogX: true, Series: []Series{{"s", []Point{{5, 3}}}}},
	} {
		var b bytes.Buffer
		if err := c.WriteSVG(&b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
			t.Errorf("%s: a place is not a number", name)
		}
	}
}

func TestAxis_TicksAreRoundNumbers(t *testing.T) {
	for _, c := range []struct {
		low, high float64
		want      []float64
	}{
		{0, 1, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}},
		{0, 2000, []float64{0, 500, 1000, 1500, 2000}},
		{-3, 12, []float64{-5, 0, 5, 10, 15}},
	} {
		a := linear(c.low, c.high, 0, 100, 5)
		if !slices.EqualFunc(a.ticks, c.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
			t.Errorf("from %v to %v: %v, want %v", c.low, c.high, a.ticks, c.want)
		}
	}
	many := make([]float64, 100)
	for i := range many {
		many[i] = float64(i + 1)
	}
	if got, want := logarithmic(many, 0, 1).ticks, []float64{1, 2, 5, 10, 20, 50, 100}; !slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
		t.Errorf("logarithmic: %v, want %v", got, want)
	}
}

func TestNumber_Format(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 0.25: "0.25", 12500: "12,500", 1234567: "1,234,567", -1500: "-1,500", 999: "999", 3.14159: "3.14", 0.000123456: "0.000123",
	} {
		if got := number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}
