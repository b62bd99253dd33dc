package snapshot

import (
	"context"
	"sync"
)

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
// the snapshot comes close to its bound. There all lanes wait for it.
func (w *Writer) sweepIfDue(ctx context.Context) error {
	limit := w.opts.MaxSize
	if limit > 0 && w.stored.Load() > limit/4*3 {
		w.sweep.running.Lock()
	} else if !w.sweep.running.TryLock() {
		return nil
	}
	defer w.sweep.running.Unlock()
	if w.sweep.over {
		return nil
	}
	since := w.bytes.Load() - w.sweep.at
	due := since >= max(w.sweep.left, 8*w.opts.ObjectSize)
	if limit > 0 && w.stored.Load() > limit/2 && since >= limit/16 {
		due = true
	}
	if !due {
		return nil
	}
	w.sweep.at = w.bytes.Load()
	err := w.removeSuperseded(ctx)
	w.sweep.left = w.stored.Load()
	return err
}

// removeSuperseded removes the sealed objects without a page that counts. Lanes
// may go on: a location of a sealed extent is never put into the table again, so
// an extent that is not found there once is never found again.
func (w *Writer) removeSuperseded(ctx context.Context) error {
	w.mu.Lock()
	var sealed []*pageObject
	for _, o := range w.objects {
		if o.sealed && !o.gone {
			sealed = append(sealed, o)
		}
	}
	extents := len(w.extents)
	w.mu.Unlock()
	if len(sealed) == 0 {
		return nil
	}
	used := w.usedObjects(w.liveExtents(extents))
	removed := false
	for _, o := range sealed {
		if used[o.index] {
			continue
		}
		if <-o.done; !o.good {
			continue // Finish says why
		}
		if err := w.remove(ctx, o); err != nil {
			return err
		}
		removed = true
	}
	if removed {
		w.freeExtents()
	}
	return nil
}

// liveExtents returns a bit for each of the first n extents: whether one of its
// pages counts.
func (w *Writer) liveExtents(n int) []uint64 {
	live := make([]uint64, (n+63)/64)
	var scratch []entry
	for _, t := range w.tables {
		for chunk := range t.chunks {
			scratch = t.entries(scratch[:0], chunk)
			for _, e := range scratch {
				if i := e.loc.extent(); i/64 < uint64(len(live)) {
					live[i/64] |= 1 << (i % 64)
				}
			}
		}
	}
	return live
}

// usedObjects returns which objects have a live extent, or one that is younger
// than the bits.
func (w *Writer) usedObjects(live []uint64) []bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	used := make([]bool, len(w.objects))
	for i, e := range w.extents {
		if e.count > 0 && (i/64 >= len(live) || live[i/64]&(1<<(i%64)) != 0) {
			used[e.object] = true
		}
	}
	return used
}

// freeExtents lets the numbers of extents of removed objects be used again: the
// table has none of them.
func (w *Writer) freeExtents() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, e := range w.extents {
		if e.count > 0 && w.objects[e.object].gone {
			w.extents[i] = extent{}
			w.free = append(w.free, uint64(i))
		}
	}
}
