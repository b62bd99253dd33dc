package linkwire

import "sync"

// SenderCache holds pages that one migration has sent, as the other side has them. Its
// slots are those of the other side's ReceiverCache: the sender decides which page is
// in which slot. All connections of the migration may use it at once.
//
// A page is found by its place (as the base of a difference) and by its content (for a
// reference). A slot is used only after the other side has acknowledged the frame that
// filled it. It gets another page only when every frame that uses or fills it is
// acknowledged. So the order in which the frames of different connections arrive does
// not matter.
type SenderCache struct {
	pageSize int

	mu        sync.Mutex
	slots     []slot
	pages     slotMemory
	byContent []uint32  // slot+1, in buckets by the hash of the content
	byPlace   []placeAt // in buckets by the hash of the place
	seen      []uint64  // bits by the hash of a place: whether a page was sent for the place
	hand      int       // where the search for a slot continues
	versions  uint64
	users     int               // connections
	names     map[string]uint32 // of RAM blocks
}

// slot is a page that the other side has, or will have when it has read the frame.
type slot struct {
	hash    uint64 // of the content
	version uint64 // 0 if the slot is empty
	pins    int32  // frames that use or fill the slot, and are not acknowledged
	acked   bool
	credit  uint8 // how many searches pass the slot by
}

// place is where a page is in the guest: a RAM block by its number, and the offset.
type place struct {
	block  uint32
	offset uint64
}

// placeAt is a page that was sent for a place.
type placeAt struct {
	place place
	slotAt
}

const (
	// seenBits is the number of places that a cache distinguishes.
	seenBits = 1 << 22
	// sweep bounds the search for a slot.
	sweep = 64
	// mostNames bounds the RAM blocks. Pages of further blocks are not cached.
	mostNames = 4096
	// hotCredit is the credit of a page that was sent more than once.
	hotCredit = 3
)

// join adds a connection that uses the cache.
func (c *SenderCache) join() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users++
}

// leave ends a connection's use. After the last one, the other side may drop its cache.
// So the sender forgets the pages. It goes on counting versions, so that a
// ReceiverCache that was kept takes the next ones.
func (c *SenderCache) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users--; c.users == 0 {
		clear(c.slots)
		clear(c.byPlace)
		clear(c.byContent)
	}
}

// NewSenderCache returns a cache of so many bytes of pages, or nil if that is less than
// one page.
func NewSenderCache(size int64, pageSize int) *SenderCache {
	n := slotsOf(size, pageSize)
	if n == 0 {
		return nil
	}
	index := 1
	for index < 4*n {
		index *= 2
	}
	return &SenderCache{
		pageSize: pageSize, slots: make([]slot, n), pages: newSlotMemory(n, pageSize),
		byContent: make([]uint32, index), byPlace: make([]placeAt, index), seen: make([]uint64, seenBits/64),
		names: map[string]uint32{},
	}
}

// PageSize returns the size of the cache's pages in bytes.
func (c *SenderCache) PageSize() int { return c.pageSize }

// Size returns the size of all pages in bytes.
func (c *SenderCache) Size() int64 { return int64(len(c.slots)) * int64(c.pageSize) }

// maxSlots bounds the slots of a cache: 64 GiB of pages of 4 KiB.
const maxSlots = 1 << 24

func slotsOf(size int64, pageSize int) int {
	return int(max(0, min(size/int64(pageSize), maxSlots)))
}

// cacheUse is what one page of a frame has to do with the cache.
type cacheUse struct {
	place place
	hash  uint64
	// equal is the slot of an equal page, base that of the page sent for the place
	// before, fill the one that the page goes to.
	equal, base, fill slotAt
}

// slotAt is a slot with a version. Version 0 stands for none.
type slotAt struct {
	slot    int
	version uint64
}

func (s slotAt) none() bool { return s.version == 0 }

// blockNumber returns a number for the RAM block's name.
func (c *SenderCache) blockNumber(name []byte) (uint32, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.names[string(name)]
	if !ok && len(c.names) < mostNames {
		n, ok = uint32(len(c.names)), true
		c.names[string(name)] = n
	}
	return n, ok
}

// find looks up the pages of a frame that are not zero, and pins what it finds. The
// place and the hash of each are set.
func (c *SenderCache) find(pages []pagePlan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range pages {
		u := &pages[i]
		if u.form == formZero {
			continue
		}
		if u.equal = c.withContent(u.hash); !u.equal.none() {
			c.slots[u.equal.slot].pins++
		}
		if u.base = c.ofPlace(u.place); !u.base.none() {
			c.slots[u.base.slot].pins++
		}
	}
}

// page returns the content of a pinned slot.
func (c *SenderCache) page(s slotAt) []byte { return c.pages.at(s.slot) }

// unpin unpins a slot that find pinned and the frame does not use, and clears s.
func (c *SenderCache) unpin(s *slotAt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots[s.slot].pins--
	*s = slotAt{}
}

// keep chooses the slots that the pages of a frame go to. The frame uses the equal page
// or else the base of each use. The slots that it uses or fills are appended to pinned.
// The caller then fills the slots.
func (c *SenderCache) keep(pages []pagePlan, pinned []uint32) []uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range pages {
		u := &pages[i]
		switch {
		case u.form == formZero:
			continue
		case !u.equal.none():
			c.slots[u.equal.slot].credit = hotCredit
			c.setPlace(u.place, u.equal)
			pinned = append(pinned, uint32(u.equal.slot))
			continue
		}
		hot := c.markSeen(u.place)
		if !u.base.none() {
			hot = true
			c.slots[u.base.slot].credit = 0 // the new version replaces it
			pinned = append(pinned, uint32(u.base.slot))
		}
		s := c.evict(hot)
		if s < 0 {
			continue
		}
		c.versions++
		u.fill = slotAt{s, c.versions}
		c.slots[s] = slot{hash: u.hash, version: c.versions, pins: 1}
		if hot {
			c.slots[s].credit = hotCredit
		}
		c.setContent(u.hash, s)
		c.setPlace(u.place, u.fill)
		c.pages.at(s) // allocated under the lock
		pinned = append(pinned, uint32(s)|fills)
	}
	return pinned
}

// fills marks a slot that a frame fills. The others it uses.
const fills = 1 << 31

// markSeen reports whether a page was sent for the place before. Two places can be
// taken for one.
func (c *SenderCache) markSeen(p place) bool {
	bit := p.hash() >> 20 % seenBits
	was := c.seen[bit/64]&(1<<(bit%64)) != 0
	c.seen[bit/64] |= 1 << (bit % 64)
	return was
}

// evict returns a slot to fill, -1 if there is none. A page that is sent for the first
// time does not replace one that was sent more often.
func (c *SenderCache) evict(hot bool) int {
	for range min(sweep, len(c.slots)) {
		s := c.hand
		if c.hand++; c.hand == len(c.slots) {
			c.hand = 0
		}
		switch sl := &c.slots[s]; {
		case sl.pins > 0:
		case sl.credit == 0 || sl.version == 0:
			return s
		case hot:
			sl.credit--
		}
	}
	return -1
}

// fill copies a page into a slot that keep has chosen.
func (c *SenderCache) fill(s slotAt, page []byte) { copy(c.pages.at(s.slot), page) }

// acknowledge unpins the slots of a frame that the other side has read.
func (c *SenderCache) acknowledge(pinned []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range pinned {
		sl := &c.slots[p&^fills]
		sl.pins--
		if p&fills != 0 {
			sl.acked = true
		}
	}
}

// abandon unpins the slots of a frame whose connection is closed. The other side may
// still fill them with the page of that frame, but not over a later one, because it
// compares versions.
func (c *SenderCache) abandon(pinned []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range pinned {
		sl := &c.slots[p&^fills]
		sl.pins--
		if p&fills != 0 {
			sl.version = 0
		}
	}
}
