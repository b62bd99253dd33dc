package godemo

import (
	"testing"
	"time"

	"github.com/vmferry/vmferry/live"
)

func TestSlower_FollowsWhatARoundSends(t *testing.T) {
	for _, tt := range []struct {
		name          string
		rate, writers int
		pages         uint64
		took          time.Duration
		want          int
	}{
		{"a fast round leaves the rate as it is", 4000, 2, 100_000, time.Second, 4000},
		{"a slow round lowers it to a quarter for all writers", 4000, 2, 8000, time.Second, 1000},
		{"a rate without bound gets one", 0, 1, 8000, time.Second, 2000},
		{"no round makes it 0, which is without bound", 4000, 2, 1, time.Minute, 1},
		{"it does not rise again", 1000, 2, 1_000_000, time.Second, 1000},
		{"a round of zero pages says nothing", 4000, 2, 0, time.Second, 4000},
	} {
		r := live.Round{Zero: 7, Raw: tt.pages / 4, Compressed: tt.pages - tt.pages/4, Took: tt.took}
		if got := slower(tt.rate, tt.writers, &r); got != tt.want {
			t.Errorf("%s: %d pages a second, want %d", tt.name, got, tt.want)
		}
	}
}
