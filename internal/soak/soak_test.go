package soak

import "testing"

func TestTimes_FollowsTheSwitch(t *testing.T) {
	defer func(was bool) { Long = was }(Long)
	for long, want := range map[bool]int{false: 3, true: 300} {
		Long = long
		if got := Times(3, 300); got != want {
			t.Errorf("Long %v: %d, want %d", long, got, want)
		}
	}
}
