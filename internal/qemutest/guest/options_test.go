package main

import "testing"

func TestParseOptions_AcceptsKnownOptions(t *testing.T) {
	got, err := parseOptions("console=ttyS0 quiet vmferry.fill=40 vmferry.work=8 vmferry.rate=4 vmferry.part=70\n")
	if want := (options{40, 8, 4, 70}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if got, err := parseOptions("quiet"); err != nil || got != (options{}) {
		t.Errorf("without options: %+v, %v", got, err)
	}
	for _, bad := range []string{"vmferry.fil=1", "vmferry.fill", "vmferry.fill=-1", "vmferry.work=x", "vmferry.rate=99999999999", "vmferry.part=101"} {
		if _, err := parseOptions(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
