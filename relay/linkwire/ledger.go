package linkwire

import "sync"

// ledger keeps which slots the packets of a connection use or fill, until the other side
// acknowledges the packets.
type ledger struct {
	mu      sync.Mutex
	cache   *SenderCache
	packets uint64 // that were sent
	waiting []pinnedBy
	spare   [][]uint32
	closed  bool
}

// open sets the cache of the slots.
func (l *ledger) open(c *SenderCache) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.join()
	l.cache = c
}

// pinnedBy has the slots of a packet, by its number from 1 on.
type pinnedBy struct {
	packet uint64
	slots  []uint32
}

// maxUnacknowledged bounds the packets that wait for an acknowledgement. Packets beyond
// them do not use the cache.
const maxUnacknowledged = 256

func (l *ledger) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) >= maxUnacknowledged
}

// sent records the next packet.
func (l *ledger) sent(slots []uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.packets++
	if len(slots) == 0 {
		return
	}
	var own []uint32
	if n := len(l.spare); n > 0 {
		own, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	l.waiting = append(l.waiting, pinnedBy{l.packets, append(own[:0], slots...)})
}

// acknowledge unpins the slots of the first packets of the connection, up to a number.
func (l *ledger) acknowledge(packets uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if packets > l.packets {
		return malformed(KindAck, "packet %d is acknowledged, but only %d were sent", packets, l.packets)
	}
	done := 0
	for done < len(l.waiting) && l.waiting[done].packet <= packets {
		l.cache.acknowledge(l.waiting[done].slots)
		l.spare = append(l.spare, l.waiting[done].slots)
		done++
	}
	l.waiting = append(l.waiting[:0], l.waiting[done:]...)
	return nil
}

// close unpins all slots of the connection.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cache == nil || l.closed {
		return
	}
	l.closed = true
	for _, w := range l.waiting {
		l.cache.abandon(w.slots)
	}
	l.waiting = nil
	l.cache.leave()
}
