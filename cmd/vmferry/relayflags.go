package main

import (
	"fmt"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/relay"
)

// relayFlags say how a relay sends pages over its link.
type relayFlags struct {
	Compression  string `default:"auto" enum:"auto,none,qpl,zstd" help:"How pages are compressed on the link: ${enum}. auto sends them raw while the link keeps up."`
	linkEndFlags `embed:""`
}

// linkEndFlags are for either end of a link.
type linkEndFlags struct {
	Cache    byteSize `default:"64MiB" help:"Size of the pages that both sides keep for a migration, to send differences and references; 0 is none. The smaller one of both sides counts." placeholder:"SIZE"`
	CPUs     float64  `name:"cpus" default:"0" help:"Most processor time, in processors; 0 is one for each migration under way, up to half of this machine's." placeholder:"N"`
	iaaFlags `embed:""`
}

// relayConfig makes the configuration of a relay. The caller closes its Accelerator.
func (f *relayFlags) relayConfig(a *app) (relay.Config, error) {
	if !(f.CPUs >= 0) { // nor NaN
		return relay.Config{}, usagef("--cpus: want 0 or more")
	}
	acc, err := f.relayAccelerator(a)
	if err != nil {
		return relay.Config{}, err
	}
	if err := acc.Ready(); err != nil {
		return relay.Config{}, fmt.Errorf("%w (--iaa auto or off deflates in software)", err)
	}
	return relay.Config{
		Compression: relay.Compression(f.Compression), Cache: int64(f.Cache), CPUs: f.CPUs, Accelerator: acc, Logger: a.logger(),
	}, nil
}

// relayAccelerator makes the accelerator of a relay; nil if nothing is deflated.
func (f *relayFlags) relayAccelerator(a *app) (*pagecodec.Accelerator, error) {
	switch relay.Compression(f.Compression) {
	case relay.QPL:
		return f.accelerator(a, multifd.QPL, "")
	case relay.Auto:
		// Most hosts have no accelerator, and auto is the default: it does not log that.
		if err := f.check(); err != nil {
			return nil, err
		}
		return f.newAccelerator(a, f.IAA == string(pagecodec.Require))
	}
	return f.accelerator(a, multifd.None, "")
}
