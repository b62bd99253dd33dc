package hybrid

// pace learns how many jobs must be in flight for the device not to run dry
// before the channel looks again. More than that would take pages from the
// processor, which cannot have back what is in a queue.
type pace struct{ depth, most int }

// firstDepth is the guess to begin with, leastDepth what is never undercut.
const (
	firstDepth = 16
	leastDepth = 4
)

func newPace(most int) pace { return pace{min(firstDepth, most), most} }

// learn adjusts the depth to what happened: ended jobs have ended since the last
// look, and left are still in flight. wanting tells that there was more to submit.
func (p *pace) learn(ended, left int, wanting bool) {
	switch {
	case left == 0 && ended > 0 && wanting:
		p.depth = min(2*p.depth, p.most)
	case 2*ended > p.depth:
		p.depth = min(2*ended, p.most)
	case 4*ended < p.depth:
		p.depth = max(p.depth-1, min(leastDepth, p.most))
	}
}
