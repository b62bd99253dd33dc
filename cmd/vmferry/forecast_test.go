package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// forecastOf runs the command against a QEMU that a script plays, with 64 MiB of text.
func forecastOf(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	s := qmptest.Start(t, qmptest.Config{})
	s.Answer("query-status", qmp.RunState{Status: qmp.StateRunning, Running: true})
	s.Answer("query-migrate", map[string]any{"blocked-reasons": []string{"a device \x1b[31m that stays"}})
	s.Answer("query-memdev", []any{})
	s.Answer("x-query-ramblock", map[string]string{"human-readable-text": "  pc.ram  4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000\n"})
	s.Answer("calc-dirty-rate", nil)
	s.Answer("query-dirty-rate", map[string]any{"status": "measured", "dirty-rate": 2000})
	s.ServePhysical("pc.ram", 64<<20, func(addr uint64, content []byte) {
		copy(content, bytes.Repeat([]byte("text of a guest"), 300))
		content[0], content[1] = byte(addr>>12), byte(addr>>20)
	})
	var out, errs bytes.Buffer
	a := &app{ctx: t.Context(), stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
	if status := a.run(append([]string{"forecast", "--qmp", s.Path()}, args...)); status != 0 {
		t.Fatalf("exit status %d: %s", status, errs.String())
	}
	return out.String()
}

func TestForecast_PrintsTheMachineAndATableOfLinks(t *testing.T) {
	got := forecastOf(t)
	for _, want := range []string{
		`(?m)^machine +running, QEMU 10\.0\.0, 64\.0 MiB of memory$`,
		`(?m)^cannot migrate +"a device .* that stays"$`,
		`(?m)^sampled +512 pages: 0 to 1 % are zero, 0 have the content of another one, 0 changed meanwhile$`,
		`(?m)^dirty +.* to 64\.0 MiB after 4s \(page-sampling\)$`,
		`(?m)^qpl +compresses to \d+ to \d+ %, .*/s on one processor$`,
		`(?m)^processor +.*, 1 of them$`,
		`(?m)^reading +1024 pages, for which QEMU took \d`,
		`(?m)^link +method +converges +total +downtime +on the link$`,
		`(?m)^100 Mb/s +none +no +no end +no end +no end$`,
		`(?m)^1 Gb/s `, `(?m)^10 Gb/s `, `(?m)^25 Gb/s `,
		`(?m)^ +auto \((none|qpl|zstd)\) +yes +\S+ s to \S+ s `,
	} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s is not in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "\x1b") {
		t.Errorf("QEMU's text reaches the terminal as it is: %q", got)
	}
}

func TestForecast_JSONIsTheResult(t *testing.T) {
	got := forecastOf(t, "--json", "--bandwidth", "100MiB", "--cpus", "2")
	var r qemu.ForecastResult
	d := json.NewDecoder(strings.NewReader(got))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if len(r.Links) != 1 || r.Links[0].Bandwidth != 100<<20 || len(r.Links[0].Methods) != 3 || r.Processors != 2 || r.Sample.Pages != 512 || len(r.Windows) != 4 {
		t.Errorf("%+v", r)
	}
}

func TestBitRate_UsesTheUnitsOfNetworks(t *testing.T) {
	for bytes, want := range map[uint64]string{1: "8 b/s", 12_500_000: "100 Mb/s", 125_000_000: "1 Gb/s", 312_500_000: "2.5 Gb/s", 1 << 20: "8.4 Mb/s", 1000: "8 kb/s"} {
		if got := bitRate(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}
