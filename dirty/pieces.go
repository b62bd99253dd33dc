package dirty

import (
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// piece is the memory in bytes that a worker scans in one step.
const piece = 256 << 20

// regions is the largest number of ranges that one call of PAGEMAP_SCAN returns.
const regions = 1024

// pieces divides the memory of a log into parts, which workers scan in parallel.
type pieces struct {
	list []pieceOf
	vecs [][]region // one for each worker
}

type pieceOf struct {
	block      int
	start, end uint64 // addresses
}

func piecesOf(l *Log) pieces {
	var p pieces
	for i, mem := range l.mem {
		s := spanOf(mem)
		for at := s.start; at < s.start+s.size; at += piece {
			p.list = append(p.list, pieceOf{i, at, min(at+piece, s.start+s.size)})
		}
	}
	for range min(l.workers, len(p.list)) {
		p.vecs = append(p.vecs, make([]region, regions))
	}
	return p
}

// each calls do for every piece, in one goroutine for each worker.
func (p *pieces) each(do func(p pieceOf, vec []region) error) error {
	if len(p.list) == 1 {
		return do(p.list[0], p.vecs[0])
	}
	var next atomic.Int64
	var group errgroup.Group
	for _, vec := range p.vecs {
		group.Go(func() error {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(p.list) {
					return nil
				}
				if err := do(p.list[n], vec); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}
