package multifd_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/internal/socketpair"
	"github.com/vmferry/vmferry/multifd"
)

// scatter makes buffers of all kinds: adjacent ones, gaps, empty ones.
func scatter(r *rand.Rand, n int) (bufs [][]byte, total int) {
	arena := make([]byte, 8<<20)
	at := 0
	for range n {
		size := []int{0, 1, 100, 4096, 4096, 4096, 9000}[r.IntN(7)]
		if r.IntN(3) == 0 {
			at += 64 // a gap: the vector before ends
		}
		bufs = append(bufs, arena[at:at+size:at+size])
		at += size
		total += size
	}
	r.Shuffle(len(bufs)/2, func(i, j int) { bufs[i], bufs[j] = bufs[j], bufs[i] })
	return bufs, total
}

func TestReadVectors_FillsEveryBufferWhateverTheSizesOfWrites(t *testing.T) {
	for i := range 20 {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		bufs, total := scatter(r, 1+r.IntN(200))
		want := make([]byte, total+10)
		fillRandom(r, want[:total&^7])
		a, b := socketpair.New(t)
		go func() {
			for rest := want; len(rest) > 0; {
				n := min(1+r.IntN(20_000), len(rest))
				if _, err := a.Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
		}()
		rd := multifd.NewReader(b)
		if err := rd.ReadVectors(bufs); err != nil {
			t.Fatal(err)
		}
		if got := bytes.Join(bufs, nil); !bytes.Equal(got, want[:total]) {
			t.Fatalf("run %d: the buffers differ from what was written at %d of %d", i, firstDifference(got, want), total)
		}
		if rd.Total() != uint64(total) {
			t.Errorf("%d bytes counted, %d read", rd.Total(), total)
		}
		if err := rd.ReadFull(make([]byte, 10)); err != nil {
			t.Errorf("what follows cannot be read: %v", err)
		}
	}
}

func TestReadVectors_TakesMoreVectorsThanOneCall(t *testing.T) {
	const n, size = 3000, 16 // the kernel takes 1,024 at once
	arena := make([]byte, n*size*2)
	var bufs [][]byte
	for i := range n {
		bufs = append(bufs, arena[2*i*size:2*i*size+size])
	}
	want := make([]byte, n*size)
	fillRandom(seeded("vectors"), want)
	a, b := socketpair.New(t)
	go a.Write(want)
	if err := multifd.NewReader(b).ReadVectors(bufs); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.Join(bufs, nil), want) {
		t.Error("the buffers differ from what was written")
	}
}

// TestReadVectors_JoinsAdjacentBuffers reads into many objects
// of one size, some of which the allocator puts side by side.
func TestReadVectors_JoinsAdjacentBuffers(t *testing.T) {
	var bufs [][]byte
	for range 64 {
		bufs = append(bufs, make([]byte, 4096))
	}
	want := make([]byte, 64*4096)
	fillRandom(seeded("neighbours"), want)
	a, b := socketpair.New(t)
	go func() {
		for rest := want; len(rest) > 0; rest = rest[min(5000, len(rest)):] {
			if _, err := a.Write(rest[:min(5000, len(rest))]); err != nil {
				t.Error(err)
			}
		}
	}()
	if err := multifd.NewReader(b).ReadVectors(bufs); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.Join(bufs, nil), want) {
		t.Error("the buffers differ from what was written")
	}
}

func TestReadVectors_FromAReaderWithoutADescriptor(t *testing.T) {
	r := seeded("ordinary")
	bufs, total := scatter(r, 50)
	want := make([]byte, total)
	fillRandom(r, want[:total&^7])
	rd := multifd.NewReader(bytes.NewReader(want))
	if err := rd.ReadVectors(bufs); err != nil || !bytes.Equal(bytes.Join(bufs, nil), want) || rd.Total() != uint64(total) {
		t.Errorf("%v, %d bytes of %d", err, rd.Total(), total)
	}
}

func TestReadVectors_OfNothingReadsNothing(t *testing.T) {
	_, b := socketpair.New(t)
	rd := multifd.NewReader(b)
	for _, bufs := range [][][]byte{nil, {nil}, {{}, {}}} {
		if err := rd.ReadVectors(bufs); err != nil || rd.Total() != 0 {
			t.Errorf("%v, %d bytes", err, rd.Total())
		}
	}
}

func TestReader_SocketThatEndsEarlyIsTruncated(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 5000} {
		a, b := socketpair.New(t)
		a.Write(make([]byte, n))
		a.Close()
		if err := multifd.NewReader(b).ReadVectors([][]byte{make([]byte, 4096), make([]byte, 1000)}); !errors.Is(err, multifd.ErrTruncated) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestReader_SocketClosedLocallyIsNotTruncated(t *testing.T) {
	_, b := socketpair.New(t)
	rd := multifd.NewReader(b)
	b.Close()
	err := rd.ReadVectors([][]byte{make([]byte, 10)})
	if err == nil || errors.Is(err, multifd.ErrTruncated) {
		t.Errorf("got %v", err)
	}
}

func TestReader_ReadsAFileToItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "channel")
	want := bytes.Repeat([]byte("file"), 3000)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rd := multifd.NewReader(f)
	got := make([]byte, len(want))
	if err := rd.ReadVectors([][]byte{got[:5000], got[6000:], got[5000:6000]}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:5000], want[:5000]) {
		t.Error("the first buffer differs")
	}
	if _, err := rd.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}
