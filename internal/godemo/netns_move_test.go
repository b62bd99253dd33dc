//go:build netns

package godemo

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/machine"
)

func TestAMachineMovesBetweenNamespaces(t *testing.T) {
	const tbf = 200e6 / 8
	w := newWire(t)
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
					if err := w.shape(link.rate); err != nil {
						t.Fatal(err)
					}
					p := &parts{t: t, wire: w, delay: link.delay}
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
						t.Fatalf("%s\n%s", strings.Join(r.Problems, "\n"), p.said())
					}
					rtt := 2 * link.delay
					// Most of the time the machine runs; a slow processor makes both longer.
					if most := r.Total/2 + 6*rtt; r.Downtime > most {
						t.Errorf("%v of downtime in a migration of %v; %v was allowed, and with the link's delay it is to be at most %v", r.Downtime, r.Total, link.downtime, most)
					}
					// The link is what it is meant to be.
					if r.Downtime < 2*rtt {
						t.Errorf("%v of downtime, less than the two ways there and back of the handover", r.Downtime)
					}
					if least := time.Duration(float64(r.Bytes) / tbf * 0.9 * float64(time.Second)); link.rate != "" && r.Total < least {
						t.Errorf("%d bytes in %v, faster than the link", r.Bytes, r.Total)
					}
					t.Logf("%d rounds, %d bytes, %v in all, %v of downtime", r.Rounds, r.Bytes, r.Total.Round(time.Millisecond), r.Downtime.Round(time.Millisecond))
				})
			}
		}
	}
}
