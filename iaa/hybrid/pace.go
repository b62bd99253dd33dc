package hybrid

// pace learns how many jobs must be in flight to keep the device busy until the channel
// polls again. More jobs would take pages from the processor, because a job in a queue
// cannot be taken back.
type pace struct {
	depth, most int
	recent      float64 // recent average of the jobs that end between two polls
}

// firstDepth is the initial depth and leastDepth the lower bound. The depth is margin
// times the jobs that ended between two polls, because jobs end faster while other
// channels submit less.
const (
	firstDepth = 64
	leastDepth = 4
	margin     = 3
)

func newPace(most int) pace { return pace{depth: min(firstDepth, most), most: most} }

// learn adjusts the depth: ended jobs have ended since the last poll, left are still in
// flight, and wanting is set if there were more pages to submit.
func (p *pace) learn(ended, left int, wanting bool) {
	if left == 0 && wanting {
		ended *= 2 // the device was idle: it would have done more
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
