package forecast

import (
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
)

// PageSize is the size of the sampled pages.
const PageSize = 4096

// Sample is a machine's pages of which each was looked at once, or twice with time between.
type Sample struct {
	pages map[uint64][sha256.Size]byte // by address
	kept  [][]byte                     // the pages that are not zero
	again [][]byte                     // those of them, as they are now, that changed since the first look
	zero  int
	moved int // pages that changed until the second look
	seen  map[[sha256.Size]byte]int
}

// NewSample makes an empty sample.
func NewSample() *Sample {
	return &Sample{pages: make(map[uint64][sha256.Size]byte), seen: make(map[[sha256.Size]byte]int)}
}

// Add takes the content of the page at an address. The second Add of an address
// finds out whether the page has changed.
func (s *Sample) Add(addr uint64, content []byte) {
	digest := sha256.Sum256(content)
	zero := deflate.IsZero(content)
	if before, ok := s.pages[addr]; ok {
		if digest != before {
			s.moved++
			if !zero {
				s.again = append(s.again, slices.Clone(content))
			}
		}
		return
	}
	s.pages[addr] = digest
	if zero {
		s.zero++
		return
	}
	s.seen[digest]++
	s.kept = append(s.kept, slices.Clone(content))
}

// Statistics of a sample. The shares are of pages.
type Statistics struct {
	Pages   int   `json:"pages"`
	Zero    Range `json:"zero_share"`
	Changed int   `json:"changed_pages"` // at the second look
	// Identical is the number of sampled pages that are not zero and have the content of
	// another one. The whole memory has more of them: this is a lower bound.
	Identical int `json:"identical_pages"`
}

// Statistics counts the pages.
func (s *Sample) Statistics() Statistics {
	st := Statistics{Pages: len(s.pages), Zero: wilson(float64(s.zero), float64(len(s.pages))), Changed: s.moved}
	for _, n := range s.seen {
		if n > 1 {
			st.Identical += n
		}
	}
	return st
}

// fewChanged is the number of changed pages below which they say nothing of how others
// compress.
const fewChanged = 20

// speedMargin is the part of a measured speed that is sure to be there while the processor
// does other work.
const speedMargin = 0.7

// Measure compresses the sampled pages with a method for about the given time.
func (s *Sample) Measure(method multifd.Method, t time.Duration) (Method, error) {
	m := Method{Name: method.Name(), First: Range{0, 1}, Again: Range{0, 1}}
	if method == multifd.None || len(s.kept) == 0 {
		m.First, m.Again = exactly(1), exactly(1)
		return m, nil
	}
	sizes, speed, err := compress(method, s.kept, t)
	if err != nil {
		return m, err
	}
	m.First, m.Speed = meanOf(sizes), Range{speed * speedMargin, speed}
	if len(s.again) >= fewChanged {
		sizes, _, err := compress(method, s.again, 0)
		m.Again = meanOf(sizes)
		return m, err
	}
	// Changed pages can be of any kind that the memory holds.
	slices.Sort(sizes)
	m.Again = Range{sizes[len(sizes)/4], sizes[len(sizes)*3/4]}
	m.Again.Low, m.Again.High = min(m.Again.Low, m.First.Low), max(m.Again.High, m.First.High)
	return m, nil
}

// compress returns each page's size on the wire divided by its own, and the speed of the
// fastest pass in bytes a second. It passes over the pages for the given time, at least
// once.
func compress(method multifd.Method, pages [][]byte, t time.Duration) (sizes []float64, speed float64, err error) {
	if len(pages) == 0 {
		return nil, 0, errors.New("no pages to compress")
	}
	block := &guest.Block{Name: "sample", Length: PageSize}
	batch := &guest.Batch{Block: block, Normal: []uint64{0}, Data: make([][]byte, 1)}
	header := float64(multifd.HeaderLen(PageSize))
	for began := time.Now(); sizes == nil || time.Since(began) < t; {
		s, err := multifd.NewSender(io.Discard, method, new(atomic.Uint64), multifd.ChannelConfig{PageSize: PageSize})
		if err != nil {
			return nil, 0, err
		}
		pass := make([]float64, 0, len(pages))
		start := time.Now()
		for _, p := range pages {
			batch.Data[0] = p
			before := s.Bytes()
			if err := s.Send(batch); err != nil {
				s.Close()
				return nil, 0, err
			}
			pass = append(pass, (float64(s.Bytes()-before)-header)/PageSize)
		}
		speed = max(speed, float64(len(pages)*PageSize)/max(time.Since(start).Seconds(), 1e-9))
		s.Close()
		sizes = pass
	}
	return sizes, speed, nil
}
