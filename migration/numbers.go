package migration

import (
	"fmt"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// packetNumbers are those of packets. A source numbers the packets of all its channels
// together, without a gap: what is missing at a sync point went over a channel
// that is not here.
//
// A QEMU before 9.0 that reaches a sync point with a packet not yet sent puts the
// SYNC into that one, and sends an empty one behind it. Such a channel may be late
// by one packet.
type packetNumbers struct {
	count           uint64
	lowest, highest uint64 // of count, if that is not 0
	late            uint64 // how many may still come
}

func (n *packetNumbers) add(p *multifd.Packet) {
	n.merge(packetNumbers{count: 1, lowest: p.Num, highest: p.Num})
	if p.Sync() && len(p.Normal)+len(p.Zero) > 0 {
		n.late = 1
	}
}

// afterSync are those after a sync point.
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

// check says whether some are missing.
func (n *packetNumbers) check(channels int) error {
	if n.count == 0 || n.highest-n.lowest < n.count+n.late {
		return nil
	}
	return fmt.Errorf("%w: of the packets %d to %d only %d came: the source uses more than %d channels (set the same multifd-channels on both)",
		transport.ErrChannels, n.lowest, n.highest, n.count, channels)
}
