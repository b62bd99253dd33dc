package deflate

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/internal/corpus"
)

// eachTier runs a subtest for each tier that this processor has, in which all Encoders and
// Decoders are of that tier.
func eachTier(t *testing.T, test func(t *testing.T, r *routines)) {
	t.Helper()
	defer active.Store(active.Load())
	for _, tier := range tiers {
		if tier.runs {
			active.Store(tier)
			t.Run(tier.name, func(t *testing.T) { test(t, &tier.routines) })
		}
	}
}

// TestTiers_AreListed logs which tiers the tests of this package run. make test shows the
// line.
func TestTiers_AreListed(t *testing.T) {
	has := Tiers()
	var lacks []string
	for _, tier := range tiers {
		if !tier.runs {
			lacks = append(lacks, tier.name)
		}
	}
	t.Logf("tiers of the page codec that are tested: %v; that this processor lacks: %v", has, lacks)
	if len(has) == 0 || has[len(has)-1] != "go" {
		t.Errorf("tiers %v, want go as the last one", has)
	}
	if Tier() != has[0] && os.Getenv(Environment) == "" {
		t.Errorf("tier %s is in use, want %s", Tier(), has[0])
	}
}

func TestUseTier(t *testing.T) {
	defer active.Store(active.Load())
	for _, name := range Tiers() {
		if err := UseTier(name); err != nil || Tier() != name {
			t.Errorf("tier %s is in use, want %s (error %v)", Tier(), name, err)
		}
	}
	if err := UseTier(Auto); err != nil || Tier() != Tiers()[0] {
		t.Errorf("auto: tier %s is in use, want %s (error %v)", Tier(), Tiers()[0], err)
	}
	before := Tier()
	if err := UseTier("sse"); err == nil || !strings.Contains(err.Error(), `no tier is called "sse"`) {
		t.Errorf("a tier that does not exist: error %v", err)
	}
	saved := tiers
	defer func() { tiers = saved }()
	tiers = append([]*tier{{name: "future", needs: "instructions of the future"}}, saved...)
	if err := UseTier("future"); err == nil || !strings.Contains(err.Error(), "cannot run the tier future, which needs instructions of the future (it can run "+before) {
		t.Errorf("a tier that this processor lacks: error %v", err)
	}
	if Tier() != before {
		t.Errorf("tier %s is in use after errors, want %s", Tier(), before)
	}
}

// TestTiers_TokensGiveThePage expands the tokens of Dense.
func TestTiers_TokensGiveThePage(t *testing.T) {
	pages := testPages(t)
	eachTier(t, func(t *testing.T, r *routines) {
		m := new(matcher)
		for _, p := range pages {
			m.load(p.data)
			if !r.find(m, new(weights)) {
				continue
			}
			var got []byte
			for _, tok := range m.tokens() {
				if !tok.isMatch() {
					got = append(got, byte(tok))
					continue
				}
				length, distance := int(tok.length3())+3, int(tok.distance1())+1
				if distance > len(got) {
					t.Fatalf("%s: distance %d at byte %d", p.name, distance, len(got))
				}
				for range length {
					got = append(got, got[len(got)-distance])
				}
			}
			if !bytes.Equal(got, p.data) {
				t.Fatalf("%s: the tokens give another page", p.name)
			}
		}
	})
}

// TestTiers_RatiosAreClose compares the bytes of generated and guest pages, of the usual and
// of the largest size, in all tiers with those of the best one.
func TestTiers_RatiosAreClose(t *testing.T) {
	var data []byte
	for _, p := range guestPages(t) {
		data = append(data, p.data...)
	}
	for _, size := range []int{4096, MaxPageSize} {
		for _, mode := range modes {
			sums := map[string]int{}
			eachTier(t, func(*testing.T, *routines) {
				e, dst := NewEncoder(mode), make([]byte, size-1)
				for at := 0; at+size <= len(data); at += size {
					n := e.Deflate(dst, data[at:at+size])
					if n == 0 {
						n = size
					}
					sums[Tier()] += n
				}
			})
			least := slices.Min(slices.Collect(maps.Values(sums)))
			for name, n := range sums {
				if float64(n) > 1.01*float64(least) {
					t.Errorf("%v, tier %s, pages of %d bytes: %d bytes, more than 1 %% above the best tier's %d", mode, name, size, n, least)
				}
			}
		}
	}
}

// tokenRuns returns sequences of tokens that no matcher would emit, of every
// length up to a few vectors.
func tokenRuns() [][]token {
	var all []token
	for length := 3; length <= maxMatch; length++ {
		all = append(all, token(length&0xff), matchToken(length, 1+length*13%maxDistance))
	}
	for distance := 1; distance <= maxDistance; distance++ {
		all = append(all, matchToken(3+distance%256, distance))
	}
	for range 4 {
		for b := range token(256) {
			all = append(all, b)
		}
	}
	// Pairs of the longest there are.
	for range 64 {
		all = append(all, matchToken(257, 4000))
	}
	runs := [][]token{all}
	for n := range 70 {
		runs = append(runs, all[500:500+n])
	}
	return runs
}

// testCodes returns codes from the plainest to the most lopsided.
func testCodes() []*tokenCodes {
	var all []*tokenCodes
	var b codeBuilder
	for skew := range 6 {
		lens, weights := new(tokenLens), new(weights)
		for sym := range numLitLen {
			weights.litLen[sym] = 1 + uint32(sym*sym*7%1000)>>(2*skew)
		}
		for sym := range numDistance {
			weights.distance[sym] = 1 << (sym * skew % 20)
		}
		codes := new(tokenCodes)
		b.build(lens.litLen[:], weights.litLen[:], codeLimit)
		b.codes(codes.litLen[:], lens.litLen[:])
		b.build(lens.distance[:], weights.distance[:], distanceLimit)
		b.codes(codes.distance[:], lens.distance[:])
		all = append(all, codes)
	}
	return append(all, fixedCodes)
}

func TestTiers_TokenWritersAgree(t *testing.T) {
	eachTier(t, func(t *testing.T, r *routines) {
		for c, codes := range testCodes() {
			for _, run := range tokenRuns() {
				for _, lead := range []uint{0, 1, 5, 7, 13, 55} {
					var a, b bitWriter
					for _, w := range []*bitWriter{&a, &b} {
						w.put(0x2aaaaaaaaaaaaa>>(54-min(lead, 54)), lead)
					}
					// The slice behind the tokens must not matter.
					r.put(codes, &a, append(slices.Clone(run), 7, 7)[:len(run)])
					codes.putGo(&b, run)
					a.finish()
					b.finish()
					if !bytes.Equal(a.bytes(), b.bytes()) {
						t.Fatalf("codes %d: %d tokens after %d bits differ", c, len(run), lead)
					}
				}
			}
		}
	})
}

func TestTiers_CountingAgrees(t *testing.T) {
	pages := testPages(t)
	eachTier(t, func(t *testing.T, r *routines) {
		m := new(matcher)
		for _, p := range pages {
			var a, b weights
			m.load(p.data)
			if !r.find(m, &a) {
				continue
			}
			b.add(m.tokens())
			if a.litLen != b.litLen || a.distance != b.distance {
				t.Fatalf("%s: the tokens weigh differently", p.name)
			}
		}
	})
}

func TestTiers_DecodersAgree(t *testing.T) {
	pages := testPages(t)
	eachTier(t, func(t *testing.T, r *routines) {
		a, b := NewDecoder(), &Decoder{routines: &goRoutines}
		check := func(stream []byte, size int) {
			t.Helper()
			outA, outB := make([]byte, size), make([]byte, size)
			errA, errB := a.Inflate(outA, stream), b.Inflate(outB, stream)
			if (errA == nil) != (errB == nil) || !bytes.Equal(outA, outB) {
				t.Fatalf("page of %d bytes: error %v, in Go %v", size, errA, errB)
			}
		}
		for _, p := range pages {
			for _, mode := range modes {
				stream := make([]byte, len(p.data)+64)
				stream = stream[:NewEncoder(mode).Deflate(stream, p.data)]
				check(stream, len(p.data))
				check(stream, len(p.data)-1)
				check(stream, len(p.data)+1)
				check(stream[:len(stream)/2], len(p.data))
				flip := 3 + len(p.data)*31%max(1, len(stream)-3)
				if flip < len(stream) {
					stream[flip] ^= 0x10
					check(stream, len(p.data))
				}
			}
		}
	})
}

func TestTiers_ZeroTestsAgree(t *testing.T) {
	eachTier(t, func(t *testing.T, r *routines) {
		page := make([]byte, 4*zeroStep)
		for i := range page {
			page[i] = 1
			for n := 0; n <= len(page); n += zeroStep {
				if got, want := r.zeroSteps(page[:n]), i >= n; got != want {
					t.Fatalf("byte %d of %d: %v, want %v", i, n, got, want)
				}
			}
			page[i] = 0
		}
		corpus.Fill(page, corpus.Random, 1)
		if r.zeroSteps(page) {
			t.Error("noise taken for zeros")
		}
	})
}

func TestTiers_SortingAgrees(t *testing.T) {
	eachTier(t, func(t *testing.T, r *routines) {
		lens := make([]uint8, litLenCodes)
		var a, b canonical
		for round := range 200 {
			corpus.Fill(lens, corpus.Random, uint64(round))
			for i := range lens {
				// Sometimes all lengths, sometimes few, sometimes many zeros.
				lens[i] = lens[i] >> 4 & uint8(round|1)
				if lens[i] > uint8(round/8) {
					lens[i] = 0
				}
			}
			r.sort(&a, lens)
			b.sortGo(lens)
			used := 0
			for _, n := range b.count {
				used += int(n)
			}
			if a.count != b.count || !slices.Equal(a.sorted[:used], b.sorted[:used]) {
				t.Fatalf("round %d: %v sorted differently", round, lens)
			}
		}
	})
}
