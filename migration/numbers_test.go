package migration

import (
	"errors"
	"math"
	"testing"
)

func TestNumbersThatAreMissingAreNoticed(t *testing.T) {
	for _, tt := range []struct {
		name     string
		channels [][]uint64
		missing  bool
	}{
		{"none at all", nil, false},
		{"one", [][]uint64{{7}}, false},
		{"one channel, without a gap", [][]uint64{{0, 1, 2}}, false},
		{"two channels, without a gap", [][]uint64{{1, 4, 5}, {2, 3, 6}}, false},
		{"a channel without packets", [][]uint64{{}, {1, 2}}, false},
		{"a source that numbers each channel alone", [][]uint64{{0, 1, 2}, {0, 1}}, false},
		{"a source that does not number", [][]uint64{{0, 0, 0}}, false},
		{"one a channel, which may be late", [][]uint64{{1, 4, 6}, {3, 7}}, false},
		{"every other one", [][]uint64{{0, 2, 4, 6}}, true},
		{"more than one a channel", [][]uint64{{1, 4, 6}, {8}}, true},
		{"nearly all that there could be", [][]uint64{{0, math.MaxUint64}}, true},
	} {
		var all numbers
		for _, channel := range tt.channels {
			var one numbers
			for _, n := range channel {
				one.add(n)
			}
			all.merge(one)
		}
		if err := all.check(2); errors.Is(err, ErrChannels) != tt.missing || !tt.missing && err != nil {
			t.Errorf("%s, %d: error %v", tt.name, tt.channels, err)
		}
	}
}
