package main

import (
	"strings"
	"testing"
	"time"
)

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

func TestMebibytes_NumberWithoutUnitIsMiB(t *testing.T) {
	for text, want := range map[string]mebibytes{"256": 256, "256MiB": 256, "1GiB": 1024, "2048KiB": 2, "1.5g": 1536} {
		var got mebibytes
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "1KiB", "-1", "much", "1.5"} {
		var got mebibytes
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}

func TestParseDuration_UnitIsNamedWhereItIsMissing(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "300ms": 300 * time.Millisecond, "1.5s": 1500 * time.Millisecond, "2m": 2 * time.Minute} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for text, part := range map[string]string{"300": "300ms", "1.5": "1.5s", "-1s": "0 or more", "": "such as", "soon": "such as", "10 s": "such as", "NaN": "such as"} {
		if got, err := parseDuration(text); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, %v; want %q in the error", text, got, err, part)
		}
	}
}
