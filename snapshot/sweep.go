package snapshot

import "sync"

// sweep is what the writer knows of its last look for objects of which no page
// counts any more. Rounds that follow one another supersede whole objects: a
// page that is written all the time is sent in each.
type sweep struct {
	running sync.Mutex // a lane sweeps, the others go on
	at      int64      // bytes of pages written by then
	left    int64      // bytes of objects that were left
	over    bool       // no more pages come, Finish moves them
}

// sweepIfDue sweeps when as much was written as the last time was left, so that
// looking through the table costs little beside the writing; and earlier when
// the snapshot comes close to its bound.
func (w *Writer) sweepIfDue() error {
	if !w.sweep.running.TryLock() {
		return nil
	}
	defer w.sweep.running.Unlock()
	if w.sweep.over {
		return nil
	}
	since := w.bytes.Load() - w.sweep.at
	due := since >= max(w.sweep.left, 8*w.opts.ObjectSize)
	if limit := w.opts.MaxSize; limit > 0 && w.stored.Load() > limit/2 && since >= limit/16 {
		due = true
	}
	if !due {
		return nil
	}
	w.sweep.at = w.bytes.Load()
	err := w.removeSuperseded()
	w.sweep.left = w.stored.Load()
	return err
}

// removeSuperseded removes the committed objects without a page that counts.
// Lanes may go on: a location of a committed extent is never put into the table
// again, so what is not found there once is gone for good.
func (w *Writer) removeSuperseded() error {
	w.mu.Lock()
	var candidates []*pageObject
	for _, o := range w.objects {
		if o.committed && !o.gone {
			candidates = append(candidates, o)
		}
	}
	live := make([]uint64, (len(w.extents)+63)/64) // a bit an extent
	w.mu.Unlock()
	if len(candidates) == 0 {
		return nil
	}
	var scratch []entry
	for _, t := range w.tables {
		for n := range t.chunks {
			scratch = t.entries(scratch[:0], n)
			for _, e := range scratch {
				if i := e.loc.extent(); i/64 < uint64(len(live)) {
					live[i/64] |= 1 << (i % 64)
				}
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	used := make([]bool, len(w.objects))
	for i, e := range w.extents {
		if e.count > 0 && (i/64 >= len(live) || live[i/64]&(1<<(i%64)) != 0) {
			used[e.object] = true
		}
	}
	for _, o := range candidates {
		if used[o.index] {
			continue
		}
		if err := w.remove(o); err != nil {
			return err
		}
	}
	for i, e := range w.extents {
		if e.count > 0 && w.objects[e.object].gone {
			w.extents[i] = extent{}
			w.free = append(w.free, uint64(i))
		}
	}
	return nil
}
