package qmp_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

func TestCalcDirtyRate_HasTheArgumentsOfTheVersion(t *testing.T) {
	for _, test := range []struct {
		version qmp.Version
		request qmp.DirtyRateRequest
		want    string
	}{
		{qmp.Version{Major: 7, Minor: 2}, qmp.DirtyRateRequest{Time: 1500 * time.Millisecond, SamplePages: 128}, `{"calc-time":1,"sample-pages":128}`},
		{qmp.Version{Major: 10}, qmp.DirtyRateRequest{Time: 100 * time.Millisecond, Mode: qmp.DirtyBitmap}, `{"calc-time":100,"calc-time-unit":"millisecond","mode":"dirty-bitmap"}`},
	} {
		s := qmptest.Start(t, qmptest.Config{Version: test.version})
		got := ""
		s.Handle("calc-dirty-rate", func(_ context.Context, args json.RawMessage) (any, error) { got = string(args); return nil, nil })
		if err := dial(t, s).CalcDirtyRate(t.Context(), test.request); err != nil || got != test.want {
			t.Errorf("%v: %s, want %s; %v", test.version, got, test.want, err)
		}
	}
}

func TestQueryDirtyRate_HasARateOnlyAtTheEnd(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	vm := dial(t, s)
	s.Answer("query-dirty-rate", map[string]any{"status": "measuring", "mode": "page-sampling", "sample-pages": 512})
	if r, err := vm.QueryDirtyRate(t.Context()); err != nil || r.Rate != nil || r.Status != qmp.DirtyRateMeasuring {
		t.Errorf("%+v, %v", r, err)
	}
	s.Answer("query-dirty-rate", map[string]any{"status": "measured", "dirty-rate": 11, "mode": "page-sampling", "sample-pages": 512})
	if r, err := vm.QueryDirtyRate(t.Context()); err != nil || r.Rate == nil || *r.Rate != 11 || r.Mode != qmp.PageSampling || r.SamplePages != 512 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestDumpPhysical_ReadsWhatTheMonitorPrints(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	vm := dial(t, s)
	line := ""
	s.Handle("human-monitor-command", func(_ context.Context, args json.RawMessage) (any, error) {
		line = string(args)
		return "0000000000001000: 0x0807060504030201 0x0000000000000000\r\n", nil
	})
	dst := make([]byte, 16)
	if err := vm.DumpPhysical(t.Context(), 0x1000, dst); err != nil || line != `{"command-line":"xp /2gx 0x1000"}` || dst[0] != 1 || dst[7] != 8 {
		t.Errorf("%s gives %x, %v", line, dst, err)
	}
	if err := vm.DumpPhysical(t.Context(), 0x1000, dst[:8]); err == nil {
		t.Error("too much text is no error")
	}
}
