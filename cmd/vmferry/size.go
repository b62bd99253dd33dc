package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteSize is a flag that parseSize reads.
type byteSize uint64

// UnmarshalText is how kong reads it.
func (s *byteSize) UnmarshalText(text []byte) error {
	n, err := parseSize(string(text))
	*s = byteSize(n)
	return err
}

// mebibytes is a flag that parseSize reads, in MiB: so is a number without a unit.
type mebibytes uint64

// UnmarshalText is how kong reads it.
func (m *mebibytes) UnmarshalText(text []byte) error {
	if n, err := strconv.ParseUint(string(text), 10, 64); err == nil {
		*m = mebibytes(n)
		return nil
	}
	n, err := parseSize(string(text))
	if err == nil && n%(1<<20) != 0 {
		err = fmt.Errorf("%q is no whole number of MiB", text)
	}
	*m = mebibytes(n >> 20)
	return err
}

// units of parseSize; the longer ones first.
var units = []struct {
	suffix string
	shift  int
}{{"tib", 40}, {"gib", 30}, {"mib", 20}, {"kib", 10}, {"t", 40}, {"g", 30}, {"m", 20}, {"k", 10}, {"b", 0}}

// parseSize reads a number of bytes such as 4096, 512MiB or 1.5G, whose units
// are all powers of 1024.
func parseSize(s string) (uint64, error) {
	number, shift := strings.ToLower(strings.TrimSpace(s)), 0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, shift = strings.TrimSpace(rest), u.shift
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if n := v * float64(uint64(1)<<shift); err == nil && v >= 0 && n < math.MaxInt64 {
		return uint64(n), nil
	}
	return 0, fmt.Errorf("%q is no size (want a number of bytes, or one with a unit, such as 64KiB, 100MiB or 1.5GiB)", s)
}
