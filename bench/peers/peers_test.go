package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/internal/probe/codec"
)

// ownPeers are the page codec in every tier that this processor can run.
func ownPeers(t *testing.T) []peer {
	t.Helper()
	peers, err := ownModes(deflate.Tiers())
	if err != nil {
		t.Fatal(err)
	}
	return peers
}

// measure fails if a library does not inflate a page to the original.
func TestPeers_ReturnThePages(t *testing.T) {
	pages := corpus.Generate(1, 300) // more than one piece, and not whole pieces
	peers := append(append(ownPeers(t), cPeers()...), klauspost())
	results, err := measure(context.Background(), pages, peers, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.CompressMBps <= 0 || r.InflateMBps <= 0 || r.Ratio < 1.3 || r.RawPages == 0 {
			t.Errorf("%+v", r)
		}
	}
}

// The C libraries inflate the streams of package deflate, and it inflates theirs.
func TestPeers_InflateEachOthersStreams(t *testing.T) {
	pages := corpus.Generate(2, 160)
	n := len(pages) / pageSize
	speaksDeflate := func(name string) bool {
		return !strings.HasPrefix(name, "zstd") && !strings.HasPrefix(name, "lz4")
	}
	dec := deflate.NewDecoder()
	for _, c := range cPeers() {
		if !speaksDeflate(c.name) {
			continue
		}
		theirs := &batch{pages: bytes.Clone(pages), packed: make([]byte, n*stride), sizes: make([]uint32, n)}
		c.pack(theirs)
		clear(theirs.pages)
		if bad := theirs.eachPacked(dec.Inflate); bad > 0 || !bytes.Equal(theirs.pages, pages) {
			t.Errorf("Inflate does not read %s: %d pages fail", c.name, bad)
		}
		for _, own := range ownPeers(t) {
			ours := &batch{pages: bytes.Clone(pages), packed: make([]byte, n*stride), sizes: make([]uint32, n)}
			own.pack(ours)
			clear(ours.pages)
			if bad := c.unpack(ours); bad > 0 || !bytes.Equal(ours.pages, pages) {
				t.Errorf("%s does not read %s, tier %s: %d pages fail", c.name, own.name, own.tier, bad)
			}
		}
	}
}

func TestVerdict_OfEachTarget(t *testing.T) {
	for _, test := range []struct {
		t    target
		want string
	}{
		{target{Value: 1, Least: 1, Aim: 2, RatioHolds: true}, "at least"},
		{target{Value: 2, Least: 1, Aim: 2, RatioHolds: true}, "aim"},
		{target{Value: 0.9, Least: 1, Aim: 2, RatioHolds: true}, "no"},
		{target{Value: 3, Least: 1, Aim: 2}, "no: packs less densely"},
		{target{RatioHolds: true}, "aim"},
		{target{Value: 0.1, RatioHolds: true}, "no"},
	} {
		if got := test.t.verdict(); got != test.want {
			t.Errorf("%+v: %q, want %q", test.t, got, test.want)
		}
	}
}

func TestCompare_EachTier(t *testing.T) {
	fast := func(tier string, mbps, ratio float64) codec.Result {
		return codec.Result{Codec: "deflate-fast", Tier: tier, CompressMBps: mbps, InflateMBps: mbps, Ratio: ratio}
	}
	got := compare([]codec.Result{fast("avx2", 900, 2.0), fast("go", 450, 1.9),
		{Codec: "isal-0", CompressMBps: 1000, InflateMBps: 1000, Ratio: 1.8}})
	var want []target
	for _, tier := range []struct {
		name                    string
		value, ratio            float64
		least, aim              float64
		inflateLeast, inflateAt float64
	}{{"avx2", 0.9, 1, 1.0, 1.3, 1.0, 1.4}, {"go", 0.45, 0.95, 0.6, 0.8, 0.7, 0.9}} {
		want = append(want,
			target{"fast: compress over ISA-L level 0", tier.name, tier.value, tier.least, tier.aim, true},
			target{"inflate of fast pages over ISA-L's of level 0", tier.name, tier.value, tier.inflateLeast, tier.inflateAt, true},
			target{"fast: ratio over the densest tier's", tier.name, tier.ratio, 0.99, 0.99, true})
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestMeasureCodecs_MeasuresWhatIsAskedFor(t *testing.T) {
	pages := corpus.Generate(1, 16)
	results, err := measureCodecs(context.Background(), pages, &options{passes: 1, only: []string{"deflate-fast", "isal-0"}, tiers: []string{"go"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 || label(results[0]) != "deflate-fast (go)" || label(results[1]) != "isal-0" {
		t.Errorf("results %+v", results)
	}
	if _, err := measureCodecs(context.Background(), pages, &options{passes: 1, only: []string{"isal0"}}); err == nil {
		t.Error("no error for a codec that does not exist")
	}
	if _, err := measureCodecs(context.Background(), pages, &options{passes: 1, tiers: []string{"sse"}}); err == nil {
		t.Error("no error for a tier that does not exist")
	}
}

func TestDrawChart_IsWellFormedAndComplete(t *testing.T) {
	chart := drawChart([]codec.Result{
		{Codec: "deflate-fast", CompressMBps: 1000, Ratio: 2.2},
		{Codec: "zlib-1", CompressMBps: 90, Ratio: 2.7},
	})
	d := xml.NewDecoder(bytes.NewReader(chart))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"deflate-fast", "zlib-1"} {
		if !bytes.Contains(chart, []byte(name)) {
			t.Errorf("%s is missing", name)
		}
	}
}
