package main

import (
	"fmt"
	"slices"
	"strings"
)

// way is a way to migrate.
type way struct {
	name   string
	method string // of QEMU's multifd
	tls    bool   // QEMU's
	relay  *relayWay
	quick  bool // part of a quick run
}

// relayWay says how a pair of relays carries the migration.
type relayWay struct {
	flags []string // of both relays
	tls   bool
}

// baseline is the name of the way with which the others are compared, at most links. The
// first relay is the one to which the aims apply.
const (
	baseline   = "QEMU none"
	qemuZstd   = "QEMU zstd"
	firstRelay = "relay auto"
)

var allWays = []way{
	{name: baseline, method: "none", quick: true},
	{name: qemuZstd, method: "zstd", quick: true},
	{name: "QEMU TLS", method: "none", tls: true},
	relayed(firstRelay, true, false),
	relayed("relay auto TLS", true, true),
	relayed("relay auto no-cache", true, false, "--cache", "0"),
	relayed("relay qpl", false, false, "--compression", "qpl"),
	relayed("relay zstd", false, false, "--compression", "zstd"),
	relayed("relay none", false, false, "--compression", "none"),
	{name: "QEMU zlib", method: "zlib"},
}

// onRequest are the ways that are measured only if -ways names them.
var onRequest = []string{"QEMU zlib"}

func relayed(name string, quick, tls bool, flags ...string) way {
	return way{name: name, method: "none", quick: quick, relay: &relayWay{flags, tls}}
}

// link is a rate of the link, and the guest that is migrated over it.
type link struct {
	name     string
	rate     string   // in the notation of tc; "" is no limit
	bits     float64  // a second
	slow     bool     // measured in fewer runs
	busy     bool     // the guest is the busy one
	baseline string   // way with which the others are compared
	ways     []string // all if it is empty
}

// of returns the ways that are measured over the link.
func (l link) of(ways []way) []way {
	return slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return len(l.ways) > 0 && !slices.Contains(l.ways, w.name) })
}

// The links, by name.
const (
	slowest   = "100 Mb/s"
	busiest   = "100 Mb/s with a busy guest"
	middle    = "1 Gb/s"
	unlimited = "unlimited"
)

var allLinks = []link{
	{name: slowest, rate: "100mbit", bits: 100e6, slow: true, baseline: baseline},
	// Without compression, the migration of this guest would not converge.
	{name: busiest, rate: "100mbit", bits: 100e6, slow: true, busy: true, baseline: qemuZstd, ways: []string{qemuZstd, firstRelay, "relay auto no-cache"}},
	{name: middle, rate: "1gbit", bits: 1e9, baseline: baseline},
	{name: unlimited, bits: 10e9, baseline: baseline},
}

// chooseWays returns the ways with the given names, separated by commas; with none, those of
// a whole or a quick run.
func chooseWays(names string, quick bool) (chosen []way, err error) {
	if names == "" {
		for _, w := range allWays {
			if w.quick || !quick && !slices.Contains(onRequest, w.name) {
				chosen = append(chosen, w)
			}
		}
		return chosen, nil
	}
	return choose("way", allWays, func(w way) string { return w.name }, names)
}

// chooseLinks does the same for links. A quick run leaves out the busy guest.
func chooseLinks(names string, quick bool) ([]link, error) {
	if names == "" {
		return slices.DeleteFunc(slices.Clone(allLinks), func(l link) bool { return quick && l.busy }), nil
	}
	return choose("link", allLinks, func(l link) string { return l.name }, names)
}

func choose[T any](what string, all []T, name func(T) string, names string) (chosen []T, err error) {
	for wanted := range strings.SplitSeq(names, ",") {
		at := slices.IndexFunc(all, func(v T) bool { return name(v) == wanted })
		if at < 0 {
			return nil, fmt.Errorf("unknown %s %q (want some of %s)", what, wanted, list(all, name))
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}

func list[T any](all []T, name func(T) string) string {
	var names []string
	for _, v := range all {
		names = append(names, name(v))
	}
	return strings.Join(names, ",")
}
