package hybrid

// pace learns how many jobs must be in flight for the device not to run dry
// before the channel looks again. More than that would take pages from the
// processor, which cannot have back what is in a queue.
type pace struct {
	depth, most int
	recent      float64 // jobs that end between two looks, lately
}

// firstDepth is the guess to begin with, leastDepth what is never undercut, and
// margin the multiple of what was just seen to end that is kept in flight: jobs
// end faster while other channels hold back.
const (
	firstDepth = 64
	leastDepth = 4
	margin     = 3
)

func newPace(most int) pace { return pace{depth: min(firstDepth, most), most: most} }

// learn adjusts the depth to what happened: ended jobs have ended since the last
// look, and left are still in flight. wanting tells that there was more to submit.
func (p *pace) learn(ended, left int, wanting bool) {
	if left == 0 && wanting {
		ended *= 2 // the device ran dry: it would have done more
	}
	p.recent += (float64(ended) - p.recent) / 4
	switch {
	case left == 0 && ended > 0 && wanting:
		p.depth = min(2*p.depth, p.most)
	case margin*ended > p.depth:
		p.depth = min(margin*ended, p.most)
	case 2*margin*ended < p.depth:
		p.depth = max(p.depth*7/8, min(leastDepth, p.most))
	}
}
