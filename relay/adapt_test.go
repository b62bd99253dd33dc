package relay

import (
	"fmt"
	"testing"
	"time"

	"github.com/vmferry/vmferry/relay/linkwire"
)

// simulated is a connection in virtual time: QEMU, one processor and a link, each of
// which takes so many bytes a second.
type simulated struct {
	qemu, link float64
	speed      [levels]float64 // plain bytes a second of the processor
	share      [levels]float64
	begin      time.Time
	// receiver is the plain bytes a second of the other relay; 0 is no bound.
	receiver [levels]float64
}

// guest has the speeds and shares of a Linux guest's pages.
var guest = simulated{
	speed: [levels]float64{5e9, 600e6, 180e6, 50e6},
	share: [levels]float64{1, 0.45, 0.31, 0.28},
}

// run passes packets for a while, and returns the plain bytes a second of its second half.
func (s simulated) run(a *adapter, d time.Duration) (rate float64) {
	const packet = 512 << 10
	now := s.begin
	end, half := now.Add(d), now.Add(d/2)
	seconds := func(f float64) time.Duration { return time.Duration(f * 1e9) }
	qemuReady, linkFree := now, now
	carried := 0
	for now.Before(end) {
		l := a.level
		out := int(packet * s.share[l])
		// QEMU makes the next packet while this one is encoded; two wait for the link.
		input := max(0, qemuReady.Sub(now))
		now = now.Add(input)
		qemuReady = maxTime(qemuReady, now).Add(seconds(packet / s.qemu))
		work := seconds(packet / s.speed[l])
		now = now.Add(work)
		onLink := seconds(float64(out) / s.link)
		if r := s.receiver[l]; r > 0 {
			onLink = max(onLink, seconds(packet/r))
		}
		write := max(0, linkFree.Sub(now)-2*onLink)
		now = now.Add(write)
		linkFree = maxTime(linkFree, now).Add(onLink)
		a.observe(step{plain: packet, out: out, input: input, work: work, write: write}, now)
		if now.After(half) {
			carried += packet
		}
	}
	return float64(carried) / now.Sub(half).Seconds()
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// best is the rate of the best fixed level.
func (s simulated) best(d time.Duration) (rate float64, level linkwire.Level) {
	for l := range linkwire.Level(levels) {
		if r := s.run(&adapter{fixed: true, level: l}, d); r > rate*1.01 {
			rate, level = r, l
		}
	}
	return rate, level
}

func TestAdapter_ComesCloseToTheBestLevel(t *testing.T) {
	for _, link := range []float64{2e6, 12.5e6, 40e6, 125e6, 600e6, 3e9} {
		for _, qemu := range []float64{20e6, 200e6, 4e9} {
			for _, slower := range []float64{1, 4} {
				t.Run(fmt.Sprintf("link %.0fe6 QEMU %.0fe6 processor 1/%.0f", link/1e6, qemu/1e6, slower), func(t *testing.T) {
					s := guest
					s.link, s.qemu = link, qemu
					for l := range s.speed {
						s.speed[l] /= slower
					}
					want, level := s.best(20 * time.Second)
					a := newAdapter(Auto)
					if got := s.run(a, 20*time.Second); got < 0.85*want {
						t.Errorf("%.1f MB/s, with the best level (%v) %.1f; the last level is %v", got/1e6, level, want/1e6, a.level)
					}
				})
			}
		}
	}
}

func TestAdapter_SendsRawWhileTheLinkKeepsUp(t *testing.T) {
	s := guest
	s.link, s.qemu = 2e9, 300e6
	a := newAdapter(Auto)
	s.run(a, 5*time.Second)
	if a.level != linkwire.LevelRaw {
		t.Errorf("level %v on a link that is faster than QEMU, want raw", a.level)
	}
}

// TestAdapter_SlowReceiverIsNoSlowLink has another relay that inflates slowly. Its
// connection waits for it as for a slow link.
func TestAdapter_SlowReceiverIsNoSlowLink(t *testing.T) {
	s := guest
	s.link, s.qemu = 2e9, 4e9
	s.receiver = [levels]float64{1e9, 100e6, 80e6, 70e6}
	want, level := s.best(20 * time.Second)
	a := newAdapter(Auto)
	if got := s.run(a, 20*time.Second); got < 0.7*want {
		t.Errorf("%.0f MB/s, with the best level (%v) %.0f; the last level is %v", got/1e6, level, want/1e6, a.level)
	}
}

func TestAdapter_FollowsALinkThatChanges(t *testing.T) {
	s := guest
	s.qemu = 4e9
	a := newAdapter(Auto)
	for i, link := range []float64{5e6, 3e9, 5e6, 100e6} {
		s.link, s.begin = link, time.Unix(int64(i)*1000, 0)
		want, _ := s.best(30 * time.Second)
		if got := s.run(a, 30*time.Second); got < 0.8*want {
			t.Errorf("link %.0fe6: %.1f MB/s, want nearly %.1f; level %v, %+v", link/1e6, got/1e6, want/1e6, a.level, a)
		}
	}
}
