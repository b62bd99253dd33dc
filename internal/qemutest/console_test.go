package qemutest

import (
	"errors"
	"strings"
	"testing"
)

func TestParseConsole_States(t *testing.T) {
	const boot = "SeaBIOS\r\n[    0.1] something\r\nvmferry-guest: booted\r\n"
	for name, test := range map[string]struct {
		output string
		ready  bool
		want   Progress
		faults int
	}{
		"nothing":       {"", false, Progress{}, 0},
		"booted":        {boot, false, Progress{}, 0},
		"ready":         {boot + "vmferry-guest: ready fill=1 work=2 rate=3\r\n", true, Progress{}, 0},
		"counts":        {boot + "vmferry-guest: count=1 pages=2 rounds=0 ok\r\nvmferry-guest: count=2 pages=14 rounds=1 ok\r\n", true, Progress{2, 14, 1}, 0},
		"half a line":   {"vmferry-guest: count=1 pages=2 rounds=0 ok\r\nvmferry-guest: count=2 pa", true, Progress{1, 2, 0}, 0},
		"half a number": {"vmferry-guest: count=1 pages=2 rounds=0 ok\r\nvmferry-guest: count=23 pages=45 rounds=1", true, Progress{1, 2, 0}, 0},
		"restored":      {"=99 pages=8 rounds=7 ok\r\nvmferry-guest: count=100 pages=9 rounds=7 ok\r\n", true, Progress{100, 9, 7}, 0},
		"corrupt": {"vmferry-guest: CORRUPT page=3 seq=4 has checksum 1, want 2\r\n" +
			"vmferry-guest: count=5 pages=6 rounds=7 corrupt=1\r\n", true, Progress{5, 6, 7}, 1},
		"panic":            {boot + "[    3.2] Kernel panic - not syncing: Attempted to kill init!\r\n", false, Progress{}, 1},
		"workload ended":   {boot + "vmferry-guest: FAILED unknown option\r\nvmferry-guest: EXITED 1\r\n", false, Progress{}, 2},
		"kernel's message": {"[   12.0] clocksource: jumpy\r\nvmferry-guest: count=5 pages=6 rounds=7 ok\r\n", true, Progress{5, 6, 7}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := parseConsole(test.output)
			if c.ready != test.ready || c.progress != test.want || len(c.faults) != test.faults {
				t.Errorf("got ready=%v %+v faults=%q", c.ready, c.progress, c.faults)
			}
			if err := c.corrupt(); (err != nil) != (test.faults > 0) || err != nil && !errors.Is(err, ErrCorrupt) {
				t.Errorf("corrupt: %v", err)
			}
		})
	}
}

func TestCorrupt_QuotesAtMostFiveLines(t *testing.T) {
	c := parseConsole(strings.Repeat("vmferry-guest: CORRUPT page=3\n", 20))
	if text := c.corrupt().Error(); strings.Count(text, "page=3") != 5 || !strings.Contains(text, "15 more lines") {
		t.Errorf("got %s", text)
	}
}

func FuzzParseConsole(f *testing.F) {
	f.Add("vmferry-guest: ready\nvmferry-guest: count=1 pages=2 rounds=3 ok\n")
	f.Add("vmferry-guest: count=99999999999999999999 pages=-1 rounds= ok\nvmferry-guest: CORRUPT\n\n\r\n")
	f.Fuzz(func(t *testing.T, output string) {
		c := parseConsole(output)
		if c.progress != (Progress{}) && !c.ready {
			t.Errorf("a guest that counts is not ready: %+v", c)
		}
		if (c.corrupt() != nil) != (len(c.faults) > 0) {
			t.Errorf("faults %q and error %v", c.faults, c.corrupt())
		}
	})
}
