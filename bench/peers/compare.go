package main

import "github.com/vmferry/vmferry/internal/probe/codec"

// target is a figure with its required and its desired value.
type target struct {
	Name  string  `json:"target"`
	Tier  string  `json:"tier,omitempty"` // "" for the tier in use
	Value float64 `json:"value"`
	Least float64 `json:"at_least"`
	Aim   float64 `json:"aim"`
	// RatioHolds is false if the codec compresses less densely than the codec that it is
	// compared with.
	RatioHolds bool `json:"ratio_holds"`
}

// goal is what is wanted of a figure.
type goal struct{ least, aim float64 }

// goals are what is wanted of a tier. A zero goal means that none is set.
type goals struct {
	fastISAL, fastQPL, denseISAL, denseZstd goal // compression speed
	inflateFast, inflateDense               goal
}

// ofProcessorsWithoutVBMI2 are the goals of the tiers that most servers use.
var ofProcessorsWithoutVBMI2 = goals{
	fastISAL: goal{1.0, 1.3}, denseISAL: goal{1.1, 1.5}, denseZstd: goal{0.9, 1.2},
	inflateFast: goal{1.0, 1.4}, inflateDense: goal{1.0, 1.4},
}

var goalsOfTiers = map[string]goals{
	"vbmi2": {
		fastISAL: goal{1.0, 1.5}, fastQPL: goal{1.5, 2.2}, denseISAL: goal{1.25, 2.0}, denseZstd: goal{1.0, 1.5},
		inflateFast: goal{1.1, 1.6}, inflateDense: goal{1.2, 1.8},
	},
	"avx512": ofProcessorsWithoutVBMI2,
	"avx2":   ofProcessorsWithoutVBMI2,
	"go":     {fastISAL: goal{0.6, 0.8}, inflateFast: goal{0.7, 0.9}, inflateDense: goal{0.7, 0.9}},
}

// compare compares each tier of the page codec with the other codecs that were measured, and
// with the tier that compresses most densely.
func compare(results []codec.Result) []target {
	peers, densest := make(map[string]codec.Result), make(map[string]float64)
	var tiers []string
	for _, r := range results {
		if r.Tier == "" {
			peers[r.Codec] = r
			continue
		}
		densest[r.Codec] = max(densest[r.Codec], r.Ratio)
		if len(tiers) == 0 || tiers[len(tiers)-1] != r.Tier {
			tiers = append(tiers, r.Tier)
		}
	}
	var targets []target
	for _, tier := range tiers {
		own := make(map[string]codec.Result)
		for _, r := range results {
			if r.Tier == tier {
				own[r.Codec] = r
			}
		}
		targets = append(targets, goalsOfTiers[tier].compare(own, peers, tier)...)
		for _, name := range []string{"fast", "dense"} {
			if r, ok := own["deflate-"+name]; ok && len(tiers) > 1 {
				targets = append(targets, target{name + ": ratio over the densest tier's", tier, r.Ratio / densest[r.Codec], 0.99, 0.99, true})
			}
		}
	}
	return targets
}

// compare compares the modes of one tier with the other codecs.
func (g goals) compare(own, peers map[string]codec.Result, tier string) (targets []target) {
	add := func(name, mode, peer string, wanted goal, inflating bool) {
		r, measured := own["deflate-"+mode]
		p, known := peers[peer]
		if wanted == (goal{}) || !measured || !known {
			return
		}
		t := target{name, tier, r.CompressMBps / p.CompressMBps, wanted.least, wanted.aim, r.Ratio >= p.Ratio}
		if inflating {
			t.Value, t.RatioHolds = r.InflateMBps/p.InflateMBps, true
		}
		targets = append(targets, t)
	}
	add("fast: compress over ISA-L level 0", "fast", "isal-0", g.fastISAL, false)
	add("fast: compress over libqpl fixed", "fast", "qpl-fixed", g.fastQPL, false)
	add("dense: compress over ISA-L level 1", "dense", "isal-1", g.denseISAL, false)
	add("dense: compress over zstd -1", "dense", "zstd-1", g.denseZstd, false)
	add("inflate of fast pages over ISA-L's of level 0", "fast", "isal-0", g.inflateFast, true)
	add("inflate of dense pages over ISA-L's of level 1", "dense", "isal-1", g.inflateDense, true)
	return targets
}

// targets are of the tier in use.
func (x extremes) targets() []target {
	return []target{
		{"fast: random pages, GB/s", "", x.randomMBps[0] / 1e3, 2, 5, true},
		{"dense: random pages, GB/s", "", x.randomMBps[1] / 1e3, 2, 5, true},
		{"IsZero over a read loop, in cache", "", x.zeroCached, 0.9, 1.0, true},
		{"IsZero over a read loop, in memory", "", x.zeroUncached, 0.9, 1.0, true},
		{"IsZero of pages with a non-zero first word, 10^6 a second", "", x.nonZeroMPages, 20, 20, true},
		{"allocations per page", "", x.allocsPerPage, 0, 0, true},
	}
}

// verdict says whether the target is reached.
func (t target) verdict() string {
	switch {
	case !t.RatioHolds:
		return "no: packs less densely"
	case t.Aim == 0 && t.Value > 0, t.Value < t.Least:
		return "no"
	case t.Value < t.Aim:
		return "at least"
	}
	return "aim"
}
