package migration

import (
	"errors"
	"math"
	"testing"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

func TestPacketNumbers_DetectMissingPackets(t *testing.T) {
	for _, tt := range []struct {
		name     string
		channels [][]uint64
		late     bool // the first channel ends with a SYNC that has pages
		missing  bool
	}{
		{"none at all", nil, false, false},
		{"one", [][]uint64{{7}}, false, false},
		{"one channel, without a gap", [][]uint64{{0, 1, 2}}, false, false},
		{"two channels, without a gap", [][]uint64{{1, 4, 5}, {2, 3, 6}}, false, false},
		{"a channel without packets", [][]uint64{{}, {1, 2}}, false, false},
		{"a source that numbers each channel alone", [][]uint64{{0, 1, 2}, {0, 1}}, false, false},
		{"a source that does not number", [][]uint64{{0, 0, 0}}, false, false},
		{"one, which may be late", [][]uint64{{1, 4, 5}, {3}}, true, false},
		{"one, which may not be late", [][]uint64{{1, 4, 5}, {3}}, false, true},
		{"two, of which one may be late", [][]uint64{{1, 5, 6}, {3}}, true, true},
		{"every other one", [][]uint64{{0, 2, 4, 6}}, false, true},
		{"nearly all that there could be", [][]uint64{{0, math.MaxUint64}}, false, true},
	} {
		var all packetNumbers
		for i, channel := range tt.channels {
			var one packetNumbers
			for j, n := range channel {
				p := &multifd.Packet{Num: n}
				if last := j == len(channel)-1; last {
					p.Flags = multifd.FlagSync
				}
				if i == 0 && tt.late {
					p.Normal = []uint64{0}
				}
				one.add(p)
			}
			all.merge(one)
		}
		if err := all.check(2); errors.Is(err, transport.ErrChannels) != tt.missing || !tt.missing && err != nil {
			t.Errorf("%s, %d: error %v", tt.name, tt.channels, err)
		}
	}
}

func TestPacketNumbers_LateChannelMayBeLateAgain(t *testing.T) {
	var n packetNumbers
	n.add(&multifd.Packet{Num: 1, Flags: multifd.FlagSync, Zero: []uint64{0}})
	n = n.afterSync()
	n.add(&multifd.Packet{Num: 2, Flags: multifd.FlagSync})
	if n.late != 1 || n.count != 1 || n.lowest != 2 {
		t.Errorf("%+v", n)
	}
}
