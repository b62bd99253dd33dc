package hybrid

import "testing"

// settle lets a pace learn from a device that ends rate jobs between two looks.
func settle(p *pace, rate int) {
	for range 100 {
		ended := min(rate, p.depth)
		p.learn(ended, p.depth-ended, true)
	}
}

func TestPace_FollowsTheDevice(t *testing.T) {
	p := newPace(256)
	for _, rate := range []int{1, 10, 60, 5, 200, 0} {
		settle(&p, rate)
		least, most := max(margin*rate, leastDepth), max(2*margin*rate+1, leastDepth)
		if p.depth < min(least, 256) || p.depth > min(most, 256) {
			t.Errorf("%d jobs end at a time: depth %d, want %d to %d", rate, p.depth, least, most)
		}
	}
}

func TestPace_RecoversFromAnEmptyQueue(t *testing.T) {
	p := newPace(256)
	settle(&p, 1)
	looks := 0
	for ; p.depth < 120; looks++ {
		p.learn(p.depth, 0, true) // the device was through with all it had
	}
	if looks > 6 {
		t.Errorf("%d looks from the least depth to 120, want 6 at most", looks)
	}
	depth := p.depth
	p.learn(0, depth, true)
	if p.depth >= depth {
		t.Error("depth does not go down when nothing ends")
	}
}

func TestPace_StaysWithinTheSlots(t *testing.T) {
	p := newPace(3)
	settle(&p, 50)
	if p.depth != 3 {
		t.Errorf("depth %d with 3 slots", p.depth)
	}
	settle(&p, 0)
	if p.depth < 1 || p.depth > 3 {
		t.Errorf("depth %d with 3 slots", p.depth)
	}
}
