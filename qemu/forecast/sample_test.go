package forecast

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/vmferry/vmferry/multifd"
)

// text makes a page that compresses, no two alike.
func text(r *rand.Rand) []byte {
	p := bytes.Repeat([]byte("a page of a guest "), PageSize/18+1)[:PageSize]
	for range 200 {
		p[r.IntN(PageSize)] = byte(r.Uint32())
	}
	return p
}

func noise(r *rand.Rand) []byte {
	p := make([]byte, PageSize)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func TestSample_CountsZeroChangedAndIdenticalPages(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	s, same := NewSample(), text(r)
	for addr := range uint64(100) {
		switch {
		case addr < 40:
			s.Add(addr, make([]byte, PageSize))
		case addr < 50:
			s.Add(addr, same)
		default:
			s.Add(addr, text(r))
		}
	}
	s.Add(3, make([]byte, PageSize))
	s.Add(45, same)
	s.Add(60, text(r))
	s.Add(61, make([]byte, PageSize))
	st := s.Statistics()
	if st.Pages != 100 || st.Changed != 2 || st.Identical != 10 || st.Zero.Low >= 0.4 || st.Zero.High <= 0.4 {
		t.Errorf("%+v", st)
	}
}

func TestSample_MeasuresEachMethod(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	s := NewSample()
	for addr := range uint64(64) {
		s.Add(addr, text(r))
	}
	for _, method := range []multifd.Method{multifd.None, multifd.QPL, multifd.Zstd} {
		m, err := s.Measure(method, 0)
		if err != nil {
			t.Fatal(err)
		}
		if method == multifd.None {
			if m.First != exactly(1) || m.Again != exactly(1) || m.Speed != exactly(0) {
				t.Errorf("none: %+v", m)
			}
			continue
		}
		if m.First.Low <= 0 || m.First.High >= 0.5 || m.Again.Low > m.First.Low || m.Again.High < m.First.High || m.Speed.Low <= 0 || m.Speed.High <= m.Speed.Low {
			t.Errorf("%s: %+v", m.Name, m)
		}
	}
	// Pages that changed say how the pages of later rounds compress.
	for addr := range uint64(fewChanged) {
		s.Add(addr, noise(r))
	}
	m, err := s.Measure(multifd.QPL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if m.First.High >= 0.5 || m.Again.Low < 0.9 {
		t.Errorf("pages of text that become noise: %+v", m)
	}
}

func TestSample_WithoutDataPagesHasNoSpeed(t *testing.T) {
	s := NewSample()
	s.Add(0, make([]byte, PageSize))
	if m, err := s.Measure(multifd.Zstd, 0); err != nil || m.First != exactly(1) || m.Speed != exactly(0) {
		t.Errorf("%+v, %v", m, err)
	}
}
