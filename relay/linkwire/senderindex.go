package linkwire

import "github.com/cespare/xxhash/v2"

// The indexes of a SenderCache have buckets of ways entries. A new entry replaces one
// that is out of date, or else the one whose page is worth least. Otherwise the many
// pages that are sent once would displace the entries of those that are sent again.

const ways = 4

// contentHash finds candidates for a reference. Their bytes are compared.
func contentHash(page []byte) uint64 { return xxhash.Sum64(page) }

func (p place) hash() uint64 {
	h := (uint64(p.block)+1)*0x9e3779b97f4a7c15 ^ p.offset*0xff51afd7ed558ccd
	h ^= h >> 32
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>29
}

// bucket returns the bucket of a hash. Indexes have a power of two of entries.
func bucket[E any](index []E, hash uint64) []E {
	at := hash % uint64(len(index)) / ways * ways
	return index[at : at+ways]
}

// withContent returns a slot that has a page of the hash and that the other side has
// acknowledged.
func (c *SenderCache) withContent(hash uint64) slotAt {
	for _, s := range bucket(c.byContent, hash) {
		if s == 0 {
			continue
		}
		if sl := &c.slots[s-1]; sl.acked && sl.hash == hash {
			return slotAt{int(s - 1), sl.version}
		}
	}
	return slotAt{}
}

// ofPlace returns the slot of the page that was sent for the place last, if the other
// side has acknowledged it.
func (c *SenderCache) ofPlace(p place) slotAt {
	for _, at := range bucket(c.byPlace, p.hash()) {
		if at.place == p && c.isCurrent(at.slotAt) && c.slots[at.slot].acked {
			return at.slotAt
		}
	}
	return slotAt{}
}

// isCurrent reports whether a slot still has the version.
func (c *SenderCache) isCurrent(s slotAt) bool {
	return !s.none() && c.slots[s.slot].version == s.version
}

// setContent makes the slot, whose hash is set, one to be found by it.
func (c *SenderCache) setContent(hash uint64, slot int) {
	entries := bucket(c.byContent, hash)
	least := &entries[0]
	for i := range entries {
		e := &entries[i]
		if *e == 0 || *e == uint32(slot)+1 || &bucket(c.byContent, c.slots[*e-1].hash)[0] != &entries[0] {
			least = e // free, or of a page that the slot had before
			break
		}
		if c.slots[*e-1].credit < c.slots[*least-1].credit {
			least = e
		}
	}
	*least = uint32(slot) + 1
}

// setPlace makes the slot the one of the place.
func (c *SenderCache) setPlace(p place, s slotAt) {
	entries := bucket(c.byPlace, p.hash())
	least := &entries[0]
	for i := range entries {
		e := &entries[i]
		if e.place == p && !e.none() {
			least = e
			break
		}
		if c.worth(e) < c.worth(least) {
			least = e
		}
	}
	*least = placeAt{p, s}
}

// worth is the credit of an entry's page, -1 if the entry is out of date.
func (c *SenderCache) worth(e *placeAt) int {
	if !c.isCurrent(e.slotAt) {
		return -1
	}
	return int(c.slots[e.slot].credit)
}
