//go:build netns

package godemo

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/internal/slowlink"
)

func TestMigrate_BetweenNamespaces(t *testing.T) {
	const tbf = 200e6 / 8
	l := slowlink.Start(t)
	for _, link := range []struct {
		name, rate string
		delay      time.Duration // each way
		downtime   time.Duration
	}{
		{"plain", "", 0, 50 * time.Millisecond},
		{"200mbit", "200mbit", 0, 50 * time.Millisecond},
		{"20ms each way", "", 20 * time.Millisecond, 200 * time.Millisecond},
	} {
		for _, method := range []string{"none", "qpl"} {
			for _, channels := range []int{2, 4} {
				t.Run(fmt.Sprintf("%s/%s/%d", link.name, method, channels), func(t *testing.T) {
					if err := l.LimitRate(link.rate); err != nil {
						t.Fatal(err)
					}
					p := &processes{t: t, link: l, delay: link.delay}
					cfg := Config{
						Machine:  machine.Config{Memory: 48 << 20, Writers: 2, Rate: 1500, Seed: 3},
						Channels: channels, Method: method, Downtime: link.downtime,
						LinkTimeout: time.Minute, Inquiry: time.Minute,
						StandStill: 5 * time.Minute, FollowSpeed: true,
						WarmUp: 50 * time.Millisecond, GoOn: 50 * time.Millisecond,
					}
					r, err := Run(t.Context(), cfg, p.side, func(string, Event) {})
					if err != nil {
						t.Fatal(err)
					}
					if !r.Verified {
						t.Fatalf("%s\n%s", strings.Join(r.Problems, "\n"), p.logs())
					}
					rtt := 2 * link.delay
					// The bound is a share of the whole time: a slow processor makes both longer.
					if most := r.Total/2 + 6*rtt; r.Downtime > most {
						t.Errorf("downtime %v in a migration of %v, want at most %v (configured %v)", r.Downtime, r.Total, most, link.downtime)
					}
					// The handover takes two round trips over the delayed link.
					if r.Downtime < 2*rtt {
						t.Errorf("downtime %v, want at least two round trips of %v", r.Downtime, rtt)
					}
					if least := time.Duration(float64(r.Bytes) / tbf * 0.9 * float64(time.Second)); link.rate != "" && r.Total < least {
						t.Errorf("%d bytes in %v, faster than the link", r.Bytes, r.Total)
					}
					t.Logf("%d rounds, %d bytes, total %v, downtime %v", r.Rounds, r.Bytes, r.Total.Round(time.Millisecond), r.Downtime.Round(time.Millisecond))
				})
			}
		}
	}
}
