package godemo

import (
	"testing"
	"time"

	"github.com/vmferry/vmferry/live"
)

func TestNextRate_FollowsPagesSentInARound(t *testing.T) {
	for _, tt := range []struct {
		name          string
		rate, writers int
		pages         uint64
		took          time.Duration
		want          int
	}{
		{"a fast round keeps the rate", 4000, 2, 100_000, time.Second, 4000},
		{"a slow round lowers the rate of all writers to a quarter of its own", 4000, 2, 8000, time.Second, 1000},
		{"a slow round limits an unlimited rate", 0, 1, 8000, time.Second, 2000},
		{"the rate is never 0, which is unlimited", 4000, 2, 1, time.Minute, 1},
		{"the rate does not rise", 1000, 2, 1_000_000, time.Second, 1000},
		{"a round of zero pages keeps the rate", 4000, 2, 0, time.Second, 4000},
	} {
		r := live.Round{Zero: 7, Raw: tt.pages / 4, Compressed: tt.pages - tt.pages/4, Took: tt.took}
		if got := nextRate(tt.rate, tt.writers, &r); got != tt.want {
			t.Errorf("%s: %d pages a second, want %d", tt.name, got, tt.want)
		}
	}
}
