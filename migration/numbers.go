package migration

import (
	"fmt"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// packetNumbers summarize the numbers of packets. A source numbers the packets of all
// its channels in one sequence without gaps. A number that is missing at a sync point
// belongs to a channel that this side does not have.
//
// A QEMU before 9.0 that reaches a sync point with an unsent packet puts the SYNC into
// that packet and sends an empty packet after it. Such a channel may be late by one
// packet.
type packetNumbers struct {
	count           uint64
	lowest, highest uint64 // number, if count is not 0
	late            uint64 // packets that may still arrive
}

func (n *packetNumbers) add(p *multifd.Packet) {
	n.merge(packetNumbers{count: 1, lowest: p.Num, highest: p.Num})
	if p.Sync() && len(p.Normal)+len(p.Zero) > 0 {
		n.late = 1
	}
}

// afterSync returns the initial value after a sync point.
func (n *packetNumbers) afterSync() packetNumbers { return packetNumbers{late: n.late} }

func (n *packetNumbers) merge(o packetNumbers) {
	late := n.late + o.late
	switch {
	case o.count == 0:
	case n.count == 0:
		*n = o
	default:
		n.count += o.count
		n.lowest, n.highest = min(n.lowest, o.lowest), max(n.highest, o.highest)
	}
	n.late = late
}

// check returns an error that wraps transport.ErrChannels if numbers are missing.
func (n *packetNumbers) check(channels int) error {
	if n.count == 0 || n.highest-n.lowest < n.count+n.late {
		return nil
	}
	return fmt.Errorf("%w: of the packets %d to %d only %d arrived: the source uses more than %d channels (set the same multifd-channels on both sides)",
		transport.ErrChannels, n.lowest, n.highest, n.count, channels)
}
