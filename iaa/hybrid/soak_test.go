package hybrid_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	"github.com/vmferry/vmferry/internal/soak"
)

var (
	soakPages = flag.Int("soak.pages", soak.Times(4000, 100000), "pages of the fault soak")
	// Long enough for a busy machine with the race detector; every vanished job
	// costs this much.
	soakTimeout = flag.Duration("soak.timeout", 300*time.Millisecond, "job time-out of the fault soak")
	soakSeed    = flag.Uint64("soak.seed", 1, "seed of the fault soak")
)

// census counts what a leak would leave behind.
type census struct{ goroutines, fds, mappings int }

func takeCensus(t *testing.T) census {
	t.Helper()
	runtime.GC()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	// Anonymous shared-nothing mappings come and go with the Go heap, so only
	// growth beyond any heap's is held against the code.
	return census{runtime.NumGoroutine(), len(fds), bytes.Count(maps, []byte{'\n'})}
}

// TestChannel_Soak sends pages both ways while every kind of fault is injected at 1 %.
// The long run has 100,000 pages.
func TestChannel_Soak(t *testing.T) {
	for _, mapped := range []bool{false, true} {
		t.Run(fmt.Sprintf("mapped=%v", mapped), func(t *testing.T) {
			before := takeCensus(t)
			soakDevice(t, *soakPages/2, *soakSeed, mapped)
			after := takeCensus(t)
			for end := time.Now().Add(5 * time.Second); after.goroutines > before.goroutines && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
				after = takeCensus(t)
			}
			if after.goroutines > before.goroutines || after.fds > before.fds || mapped && after.mappings > before.mappings+20 {
				t.Errorf("before %+v, after %+v", before, after)
			}
		})
	}
}

func soakDevice(t *testing.T, n int, seed uint64, mapped bool) {
	faults := &iaamodel.Faults{Rate: map[iaamodel.Kind]float64{}, LateBy: *soakTimeout * 13 / 10}
	for _, k := range iaamodel.Kinds() {
		faults.Rate[k] = 0.01
	}
	cfg := iaamodel.Config{Seed: seed, Mapped: mapped, Script: iaamodel.Random(seed, faults), Devices: []iaamodel.Device{
		{Version: 0x100, Queues: []iaamodel.Queue{{}, {Mode: "dedicated", Size: 64}}},
		{Version: 0x200, Queues: []iaamodel.Queue{{RefuseMmap: true}, {Size: 16, BlockOnFault: true}}},
	}}
	m, err := iaamodel.New(t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	opts := m.Options()
	opts.JobTimeout, opts.DrainTimeout = *soakTimeout, time.Minute
	d, err := iaa.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	configs := []hybrid.Config{
		{CPU: 0.3},
		{Huffman: iaa.HuffmanDynamic, Bounce: true},
	}
	stats := make([]hybrid.Stats, len(configs))
	var wg sync.WaitGroup
	for i, c := range configs {
		wg.Go(func() { stats[i] = soakChannel(t, m, d, c, n/len(configs), seed+uint64(i), mapped) })
	}
	wg.Wait()
	if t.Failed() {
		return
	}

	st := d.Stats()
	var hardware, software int64
	for _, s := range stats {
		hardware += s.Hardware
		software += s.Software
	}
	if st.Lost != st.Reclaimed || st.LostBytes != 0 {
		t.Errorf("%d jobs lost, %d reclaimed, %d bytes kept", st.Lost, st.Reclaimed, st.LostBytes)
	}
	for _, q := range st.Queues {
		if q.Outstanding != 0 || q.Gone {
			t.Errorf("%s: %d jobs outstanding, given up: %v", q.Queue, q.Outstanding, q.Gone)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if nodes, regions := m.Live(); nodes != 0 || regions != 0 {
		t.Errorf("%d nodes and %d regions left", nodes, regions)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for _, v := range m.Violations() {
		t.Errorf("violation: %s", v)
	}
	for _, k := range iaamodel.Kinds() {
		if faults.Injected[k] == 0 {
			t.Errorf("no fault of kind %q was injected", k)
		}
	}
	t.Logf("hardware %d, software by choice %d, failures %v", hardware, software, st.Failures)
	t.Logf("injected %v", faults.Injected)
}

// soakChannel compresses and inflates n pages through a channel of its own and
// compares every byte.
func soakChannel(t *testing.T, m *iaamodel.Machine, d *iaa.Device, cfg hybrid.Config, n int, seed uint64, mapped bool) hybrid.Stats {
	rng := rand.New(rand.NewPCG(seed, 0x50a4))
	cfg.Pages, cfg.PageSize, cfg.Codec, cfg.VerifyEvery = packetPages, pageSize, newCodec(t), 1
	ch, err := hybrid.NewChannel(d, cfg)
	if err != nil {
		t.Error(err)
		return hybrid.Stats{}
	}
	defer func() {
		if err := ch.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	mem, err := m.Guest(4*packetPages*pageSize, true)
	if err != nil {
		t.Error(err)
		return hybrid.Stats{}
	}
	// A job that was given up may still read its source, which by then is being
	// filled anew. That is harmless, as with a guest that runs on, but not to the
	// race detector; so where it looks, sources are copied.
	inPlace := mem
	if !mapped {
		inPlace = mem[2*packetPages*pageSize:]
	}
	if err := d.Register(inPlace); err != nil {
		t.Error(err)
		return hybrid.Stats{}
	}
	defer func() {
		if err := errors.Join(d.Unregister(inPlace), m.Unmap(mem)); err != nil {
			t.Error(err)
		}
	}()
	s := soaker{t: t, ch: ch, rng: rng, mem: mem, check: newCodec(t)}
	for done := 0; done < n && !t.Failed(); done += packetPages {
		s.packet(min(packetPages, n-done))
	}
	s.flush()
	st := ch.Stats()
	total := st.Hardware + st.Software
	for _, f := range st.Fallback {
		total += f
	}
	if total != int64(s.submitted) {
		t.Errorf("%d pages submitted, %d accounted for: %+v", s.submitted, total, st)
	}
	return st
}

// soaker keeps two packets in progress: one compresses while the one before is
// finished, inflated again and compared.
type soaker struct {
	t         *testing.T
	ch        *hybrid.Channel
	rng       *rand.Rand
	mem       []byte // two packets of sources, two of destinations
	turn      int
	before    *hybrid.Packet
	pages     [][]byte
	submitted int
	check     *codec
}

func (s *soaker) region(i, n int) [][]byte {
	out := make([][]byte, n)
	for k := range out {
		out[k] = s.mem[(i*packetPages+k)*pageSize:][:pageSize:pageSize]
	}
	return out
}

func (s *soaker) packet(n int) {
	ps := s.region(s.turn, n)
	for _, p := range ps {
		fill(s.rng, p)
	}
	p, err := s.ch.Compress(ps)
	if err != nil {
		s.t.Errorf("Compress: %v", err)
		return
	}
	s.submitted += n
	s.flush()
	s.before, s.pages, s.turn = p, ps, 1-s.turn
}

// flush finishes the packet before and inflates what came out of it.
func (s *soaker) flush() {
	p := s.before
	if p == nil {
		return
	}
	s.before = nil
	if err := p.Finish(s.t.Context()); err != nil {
		s.t.Errorf("Finish: %v", err)
		return
	}
	var srcs, want [][]byte
	for i, o := range p.Outputs() {
		if o != nil {
			srcs, want = append(srcs, bytes.Clone(o)), append(want, bytes.Clone(s.pages[i]))
		}
	}
	p.Release()
	dsts := s.region(2, len(srcs))
	q, err := s.ch.Inflate(srcs, dsts)
	if err == nil {
		err = q.Finish(s.t.Context())
	}
	if err != nil {
		s.t.Errorf("Inflate: %v", err)
		return
	}
	q.Release()
	s.submitted += len(srcs)
	got := make([]byte, pageSize)
	for i := range dsts {
		if !bytes.Equal(dsts[i], want[i]) {
			s.t.Errorf("page %d of a packet inflated to wrong bytes", i)
		}
		if err := s.check.Inflate(got, srcs[i]); err != nil || !bytes.Equal(got, want[i]) {
			s.t.Errorf("page %d of a packet compressed to wrong bytes: %v", i, err)
		}
	}
}

// fill makes a page of mixed content: one in eight does not shrink.
func fill(rng *rand.Rand, p []byte) {
	if rng.IntN(8) == 0 {
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		return
	}
	line := fmt.Sprintf("line %d of page %d; ", rng.IntN(1000), rng.Uint32())
	for i := 0; i < len(p); {
		i += copy(p[i:], line)
	}
	for range rng.IntN(200) {
		p[rng.IntN(len(p))] = byte(rng.Uint32())
	}
}
