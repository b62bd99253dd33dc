package hybrid

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Stats counts the pages of a channel by device and software.
type Stats struct {
	Hardware int64 `json:"hardware"` // by the device
	Software int64 `json:"software"` // taken by the processor while the device worked
	// Fallback counts the pages that software did because the device could not,
	// by cause: as in iaa.Cause, "wrong-bytes" after a verification, or
	// "unavailable" without a device.
	Fallback map[string]int64 `json:"fallback,omitempty"`
	Verified int64            `json:"verified"` // device pages that software verified
	Corrupt  int64            `json:"corrupt"`  // verified pages that were wrong
}

type counters struct {
	hardware, software, verified, corrupt atomic.Int64

	mu        sync.Mutex
	fallbacks map[string]int64
}

func (c *counters) fallback(cause string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fallbacks == nil {
		c.fallbacks = make(map[string]int64)
	}
	c.fallbacks[cause]++
}

// Stats returns the counts so far. It may be called from any goroutine.
func (c *Channel) Stats() Stats {
	c.count.mu.Lock()
	defer c.count.mu.Unlock()
	return Stats{
		Hardware: c.count.hardware.Load(),
		Software: c.count.software.Load(),
		Fallback: maps.Clone(c.count.fallbacks),
		Verified: c.count.verified.Load(),
		Corrupt:  c.count.corrupt.Load(),
	}
}
