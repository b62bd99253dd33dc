package main

import "testing"

func TestSizesAreReadAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "4096": 4096, "4096B": 4096, "512KiB": 512 << 10, "64MiB": 64 << 20, "1GiB": 1 << 30,
		"1.5g": 3 << 29, " 2 TiB ": 2 << 40, "1k": 1 << 10,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "much", "-1", "1XB", "MiB", "1e30", "NaN", "9999999TiB", "1 2"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}
