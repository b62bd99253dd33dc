package migration

import "fmt"

// numbers are those of packets. A source numbers the packets of all its channels
// together, without a gap: what is missing at a sync point went over a channel
// that is not here.
//
// Up to one packet a channel may be late: a QEMU before 9.0 that reaches a sync
// point with a packet not yet sent puts the SYNC into that one, and sends an empty
// one behind it.
type numbers struct {
	count           uint64
	lowest, highest uint64 // of count, if that is not 0
}

func (n *numbers) add(number uint64) { n.merge(numbers{1, number, number}) }

func (n *numbers) merge(o numbers) {
	switch {
	case o.count == 0:
	case n.count == 0:
		*n = o
	default:
		n.count += o.count
		n.lowest, n.highest = min(n.lowest, o.lowest), max(n.highest, o.highest)
	}
}

// check says whether some are missing.
func (n *numbers) check(channels int) error {
	if n.count == 0 || n.highest-n.lowest < n.count+uint64(channels) {
		return nil
	}
	return fmt.Errorf("%w: of the packets %d to %d only %d came: the others went over a channel that this side, which was told %d, has not got (set the same multifd-channels on both)",
		ErrChannels, n.lowest, n.highest, n.count, channels)
}
