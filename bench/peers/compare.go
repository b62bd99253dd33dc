package main

import "github.com/vmferry/vmferry/internal/probe/codec"

// target is a figure with its required and its desired value.
type target struct {
	Name  string  `json:"target"`
	Value float64 `json:"value"`
	Least float64 `json:"at_least"`
	Aim   float64 `json:"aim"`
	// RatioHolds is false if the codec compresses less densely than the codec that it is
	// compared with.
	RatioHolds bool `json:"ratio_holds"`
}

// compare compares the project's modes with the other codecs.
func compare(results []codec.Result, x extremes) []target {
	by := make(map[string]codec.Result)
	for _, r := range results {
		by[r.Codec] = r
	}
	fast, dense := by["deflate-fast"], by["deflate-dense"]
	var targets []target
	compress := func(name string, own codec.Result, other string, least, aim float64) {
		if o, ok := by[other]; ok {
			targets = append(targets, target{name, own.CompressMBps / o.CompressMBps, least, aim, own.Ratio >= o.Ratio})
		}
	}
	inflate := func(name string, own codec.Result, other string, least, aim float64) {
		if o, ok := by[other]; ok {
			targets = append(targets, target{name, own.InflateMBps / o.InflateMBps, least, aim, true})
		}
	}
	compress("fast: compress over ISA-L level 0", fast, "isal-0", 1.0, 1.5)
	compress("fast: compress over libqpl fixed", fast, "qpl-fixed", 1.5, 2.2)
	compress("dense: compress over ISA-L level 1", dense, "isal-1", 1.25, 2.0)
	compress("dense: compress over zstd -1", dense, "zstd-1", 1.0, 1.5)
	inflate("inflate of fast pages over ISA-L's of level 0", fast, "isal-0", 1.1, 1.6)
	inflate("inflate of dense pages over ISA-L's of level 1", dense, "isal-1", 1.2, 1.8)
	plain := func(name string, value, least, aim float64) {
		targets = append(targets, target{name, value, least, aim, true})
	}
	plain("fast: random pages, GB/s", x.randomMBps[0]/1e3, 2, 5)
	plain("dense: random pages, GB/s", x.randomMBps[1]/1e3, 2, 5)
	plain("IsZero over a read loop, in cache", x.zeroCached, 0.9, 1.0)
	plain("IsZero over a read loop, in memory", x.zeroUncached, 0.9, 1.0)
	plain("IsZero of pages with a non-zero first word, 10^6 a second", x.nonZeroMPages, 20, 20)
	return append(targets, target{"allocations per page", x.allocsPerPage, 0, 0, true})
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
