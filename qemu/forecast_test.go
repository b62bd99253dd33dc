package qemu_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qemu/forecast"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// busyMachine is a machine with 1 GiB, of which every second page is zero and the others
// are text. It writes 8 MiB/s over any time.
func busyMachine(version qmp.Version) *qmptest.Memory {
	m := qmptest.NewMemory(version)
	m.Answer("query-status", qmp.RunState{Status: qmp.StateRunning, Running: true})
	m.Answer("query-migrate", struct{}{})
	m.Answer("query-kvm", map[string]bool{"enabled": false, "present": true})
	m.Answer("query-memdev", []any{})
	m.Answer("x-query-ramblock", map[string]string{"human-readable-text": "  pc.ram  4 KiB  0x0000000000000000 0x0000000040000000 0x0000000040000000\n"})
	m.Answer("calc-dirty-rate", nil)
	m.Answer("query-dirty-rate", map[string]any{"status": "measured", "dirty-rate": 8})
	m.ServePhysical("pc.ram", 1<<30, func(addr uint64, content []byte) {
		clear(content)
		if addr>>12%2 == 0 {
			copy(content, bytes.Repeat([]byte("text of a guest"), 300))
			content[0], content[1], content[2] = byte(addr>>12), byte(addr>>20), byte(addr>>28)
		}
	})
	return m
}

func TestForecast_MeasuresAndChangesNothing(t *testing.T) {
	for _, version := range []qmp.Version{{Major: 7, Minor: 2}, {Major: 10}, {Major: 11, Minor: 1}} {
		m := busyMachine(version)
		r, err := qemu.Forecast(t.Context(), qemu.ForecastOptions{Monitor: m, Pages: 300, Bandwidth: 100 << 20})
		if err != nil {
			t.Fatal(version, err)
		}
		// The pages are chosen at random, and a range misses the truth now and then: the
		// bounds are more than five standard deviations apart.
		s := r.Sample
		if r.Memory != 1<<30 || s.Pages != 300 || s.Changed != 0 || s.Identical != 0 || s.Zero.Low > 0.6 || s.Zero.High < 0.4 || r.Reading.Calls != 600 {
			t.Errorf("%v: %d bytes, %+v, %+v", version, r.Memory, s, r.Reading)
		}
		windows := 4
		if version.Major == 7 {
			windows = 2
		}
		last := r.Windows[len(r.Windows)-1]
		if len(r.Windows) != windows || last.Time != 4*time.Second || last.Bytes.Low > 32<<20 || last.Bytes.High < 32<<20 {
			t.Errorf("%v: %+v", version, r.Windows)
		}
		if len(r.Methods) != 3 || len(r.Links) != 1 || len(r.Links[0].Methods) != 3 {
			t.Fatalf("%v: %+v", version, r)
		}
		none, qpl := r.Links[0].Methods[0], r.Links[0].Methods[1]
		// 512 MiB over 100 MiB/s, and a few rounds of little.
		if none.Converges != forecast.Converges || none.Total.Low > 6.5 || *none.Total.High < 4 {
			t.Errorf("%v: none: %+v", version, none)
		}
		if qpl.LinkBytes == nil || qpl.LinkBytes.Low > none.LinkBytes.Low/4 {
			t.Errorf("%v: text deflated: %+v, raw %+v", version, qpl.LinkBytes, none.LinkBytes)
		}
		for _, c := range m.Calls() {
			reads := strings.HasPrefix(c.Command, "query-") || slices.Contains([]string{"x-query-ramblock", "calc-dirty-rate", "human-monitor-command"}, c.Command)
			text := string(c.Args)
			if !reads || c.Command == "human-monitor-command" && !strings.Contains(text, `"info mtree -f"`) && !strings.Contains(text, `"xp /`) {
				t.Fatalf("%v: %s %s", version, c.Command, text)
			}
		}
	}
}

func TestForecast_WithoutABandwidthIsForUsualLinks(t *testing.T) {
	r, err := qemu.Forecast(t.Context(), qemu.ForecastOptions{Monitor: busyMachine(qmp.Version{}), Pages: 40})
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for _, l := range r.Links {
		got = append(got, l.Bandwidth*8/1e6)
		if !slices.ContainsFunc(l.Methods, func(p forecast.Prediction) bool { return p.Method == l.Auto.Method }) {
			t.Errorf("auto is %q", l.Auto.Method)
		}
	}
	if !slices.Equal(got, []uint64{100, 1000, 10000, 25000}) {
		t.Errorf("%v Mb/s", got)
	}
}

func TestForecast_PausedMachineIsNotMeasured(t *testing.T) {
	m := busyMachine(qmp.Version{})
	m.Answer("query-status", qmp.RunState{Status: qmp.StatePaused})
	m.Refuse("calc-dirty-rate", "not for a machine that does not run")
	r, err := qemu.Forecast(t.Context(), qemu.ForecastOptions{Monitor: m, Pages: 40})
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Links[0].Methods[0]; len(r.Windows) != 0 || r.Reading.Calls != 40 || p.Converges != forecast.Converges || p.Rounds != 1 {
		t.Errorf("%+v, %+v", r.Windows, p)
	}
}

func TestForecast_RefusesWhatCannotBeMeasured(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*qmptest.Memory)
		opts   qemu.ForecastOptions
		want   error
		text   string
	}{
		"a QEMU that waits for a migration": {
			change: func(m *qmptest.Memory) { m.Answer("query-status", qmp.RunState{Status: qmp.StateInmigrate}) },
			want:   qemu.ErrState, text: "name the QEMU that runs the machine",
		},
		"a machine that is being migrated": {
			change: func(m *qmptest.Memory) { m.Answer("query-migrate", qmp.Migration{Status: qmp.MigrationActive}) },
			want:   qemu.ErrState, text: "a migration is under way",
		},
		"a measurement of another program": {
			change: func(m *qmptest.Memory) { m.Refuse("calc-dirty-rate", "dirty-limit is in progress") },
			want:   qemu.ErrState, text: "wait for its end",
		},
		"no dirty rate": {
			change: func(m *qmptest.Memory) { m.Refuse("calc-dirty-rate", "no") },
			want:   qemu.ErrUnable, text: "calc-dirty-rate",
		},
		// A QEMU 7.2 without KVM aborts.
		"a dirty bitmap without KVM": {
			change: func(m *qmptest.Memory) {
				m.Handle("calc-dirty-rate", func(context.Context, json.RawMessage) (any, error) { m.Die(); return nil, nil })
			},
			opts: qemu.ForecastOptions{Mode: qmp.DirtyBitmap},
			want: qemu.ErrUnable, text: "needs KVM",
		},
		"no list of RAM": {
			change: func(m *qmptest.Memory) { m.Answer("human-monitor-command", "unknown command: 'info mtree -f'\r\n") },
			want:   qemu.ErrUnable, text: "lists no main memory",
		},
		"only memory below 1 MiB": {
			change: func(m *qmptest.Memory) { m.ServePhysical("pc.ram", 1<<20, nil) },
			want:   qemu.ErrUnable, text: "lists no main memory",
		},
		"a rate that no machine has": {
			change: func(m *qmptest.Memory) {
				m.Answer("query-dirty-rate", map[string]any{"status": "measured", "dirty-rate": int64(1) << 62})
			},
			text: "reports a rate of",
		},
		"too short a time": {opts: qemu.ForecastOptions{Measure: time.Second}, text: "want 2s to 1m0s"},
		"too many pages":   {opts: qemu.ForecastOptions{Pages: 1 << 20}, text: "want 1 to 16384"},
	} {
		t.Run(name, func(t *testing.T) {
			m := busyMachine(qmp.Version{})
			if test.change != nil {
				test.change(m)
			}
			test.opts.Monitor = m
			if test.opts.Pages == 0 {
				test.opts.Pages = 4
			}
			_, err := qemu.Forecast(t.Context(), test.opts)
			if err == nil || !strings.Contains(err.Error(), test.text) || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v, want %v with %q", err, test.want, test.text)
			}
		})
	}
}

// Memory of devices can move while it is read, and is left alone.
func TestForecast_ReadsOnlyMainMemory(t *testing.T) {
	m := busyMachine(qmp.Version{})
	m.Answer("query-memdev", []qmp.MemoryBackend{{ID: "dimm1"}})
	const mtree = "FlatView #0\n AS \"memory\", root: system\n" +
		"  0000000000000000-00000000000fffff (prio 0, ram): pc.ram\n" +
		"  0000000000100000-000000003fffffff (prio 0, ram): pc.ram @0000000000100000\n" +
		"  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram\n" +
		"  0000000100000000-000000010fffffff (prio 0, ram): dimm1\n" +
		"  0000000200000000-000000020fffffff (prio 0, ram): dimm1\n"
	var read []string
	m.Handle("human-monitor-command", func(_ context.Context, args json.RawMessage) (any, error) {
		text := string(args)
		if strings.Contains(text, "mtree") {
			return mtree, nil
		}
		read = append(read, text)
		return strings.Repeat("0: 0x0000000000000000 0x0000000000000000\r\n", 256), nil
	})
	r, err := qemu.Forecast(t.Context(), qemu.ForecastOptions{Monitor: m, Pages: 100})
	if err != nil {
		t.Fatal(err)
	}
	dimm := 0
	for _, text := range read {
		var addr uint64
		if _, after, ok := strings.Cut(text, "gx 0x"); ok {
			for _, c := range strings.TrimRight(after, `"}`) {
				addr = addr<<4 | uint64(strings.IndexRune("0123456789abcdef", c))
			}
		}
		switch {
		case addr >= 1<<20 && addr < 1<<30:
		case addr >= 4<<30 && addr < 4<<30+256<<20:
			dimm++
		default:
			t.Errorf("read %s", text)
		}
	}
	if len(read) != 200 || dimm < 38 || dimm > 42 || r.Memory < 1<<30+256<<20-1<<20 {
		t.Errorf("%d pages read, %d of the DIMM; %d bytes of memory", len(read), dimm, r.Memory)
	}
}

func TestForecast_MeasurementWithoutEndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := busyMachine(qmp.Version{})
		m.Answer("query-dirty-rate", map[string]any{"status": "measuring"})
		began := time.Now()
		_, err := qemu.Forecast(t.Context(), qemu.ForecastOptions{Monitor: m, Pages: 4})
		if err == nil || !strings.Contains(err.Error(), `QEMU has no result after 1m0s (its status is "measuring")`) {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("after %v", took)
		}
	})
}

func TestForecast_EndsWithItsContext(t *testing.T) {
	m := busyMachine(qmp.Version{})
	ctx, cancel := context.WithCancel(t.Context())
	m.Handle("query-dirty-rate", func(context.Context, json.RawMessage) (any, error) {
		cancel()
		return map[string]any{"status": "measuring"}, nil
	})
	if _, err := qemu.Forecast(ctx, qemu.ForecastOptions{Monitor: m, Pages: 4}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
