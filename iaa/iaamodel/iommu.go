package iaamodel

import (
	"math/rand/v2"
	"time"
)

// IOMMU describes how devices translate the addresses of a process, in virtual time. A device
// keeps translations in a TLB of its own and asks its IOMMU for the others (ATS). If the
// process has no page there, or may not write to it, the device asks the kernel for the page
// (PRS): each IOMMU has one queue for these requests, and the kernel serves one request at a
// time. When a mapping changes that devices may have cached, the kernel flushes the IOTLB and
// the device TLB of every device that the process uses, one after the other, and waits.
//
// A page that was absent is in no TLB: making it present flushes nothing. A page that maps the
// zero page, because the processor has read it, is flushed when it is first written.
type IOMMU struct {
	// Units is the number of IOMMUs; device i uses unit i modulo Units. 0 means one for each
	// device.
	Units int
	// Entries is the number of translations in the TLB of a device.
	Entries int
	// Translation is the time of a translation that the TLB does not hold.
	Translation time.Duration
	// Request is the time that the kernel takes for a page request, without waiting in the
	// queue.
	Request Latency
	// FlushIOTLB and FlushDevice are the times of a flush of the IOTLB of one unit and of the
	// TLB of one device. A device's engines make no progress while its TLB is flushed: it
	// may answer only when no access uses the old translation.
	FlushIOTLB, FlushDevice Latency
}

// PublishedIOMMU has the latencies that QEMU's documentation of qpl compression
// (docs/devel/migration/qpl-compression.rst, "The Best Practices") shows of a Sapphire Rapids
// destination whose memory is not preallocated, from the kernel's dmar_perf_latency: a
// histogram, the extremes and the average in whole microseconds for each kind of command. The
// ranges of the buckets below lie in those of the histogram and agree with the extremes and
// averages. That each of its devices has an IOMMU follows from the devices' places on the
// PCI buses there. Entries and Translation are not published: they are assumptions, on which
// the results hardly depend.
var PublishedIOMMU = IOMMU{
	Entries:     256,
	Translation: 300 * time.Nanosecond,
	// svm_prq: 1 us at least, 556 us at most, 9 us on average.
	Request: Latency{{25206, 1 * time.Microsecond, 8 * time.Microsecond}, {364, 10 * time.Microsecond, 100 * time.Microsecond}, {395, 100 * time.Microsecond, 420 * time.Microsecond}},
	// inv_iotlb: at most 1 us, below 1 us on average.
	FlushIOTLB: Latency{{286, 100 * time.Nanosecond, 1000 * time.Nanosecond}, {123, 1000 * time.Nanosecond, 2000 * time.Nanosecond}},
	// inv_devtlb: at most 2 us, below 1 us on average.
	FlushDevice: Latency{{276, 100 * time.Nanosecond, 1000 * time.Nanosecond}, {133, 1000 * time.Nanosecond, 2500 * time.Nanosecond}},
}

// Latency is a distribution of times, as a histogram.
type Latency []Bucket

// Bucket is a part of a Latency: how many times lie in a range, evenly.
type Bucket struct {
	Count    int
	From, To time.Duration
}

// Scale returns the distribution with all times multiplied by a factor.
func (l Latency) Scale(factor float64) Latency {
	scaled := make(Latency, len(l))
	for i, b := range l {
		scaled[i] = Bucket{b.Count, time.Duration(float64(b.From) * factor), time.Duration(float64(b.To) * factor)}
	}
	return scaled
}

// Mean returns the average time.
func (l Latency) Mean() time.Duration {
	total, sum := 0, 0.0
	for _, b := range l {
		total += b.Count
		sum += float64(b.Count) * float64(b.From+b.To) / 2
	}
	return time.Duration(sum / float64(max(total, 1)))
}

// draw returns a random time of the distribution. It takes two random numbers whatever the
// times are, so that runs with scaled times are comparable. Machine.mu is held.
func draw(rng *rand.Rand, l Latency) time.Duration {
	total := 0
	for _, b := range l {
		total += b.Count
	}
	if total == 0 {
		return 0
	}
	pick, within := rng.IntN(total), rng.Float64()
	for _, b := range l {
		if pick -= b.Count; pick < 0 {
			return b.From + time.Duration(within*float64(b.To-b.From))
		}
	}
	return 0
}

// iommu is an IOMMU's queue of page requests. Machine.mu guards it.
type iommu struct {
	free time.Duration // when the kernel has served all requests so far
	rng  *rand.Rand    // of its own, so that other costs do not change its times
}

// TranslationStats counts translations, page requests and flushes of a machine with
// Config.IOMMU. All times are virtual.
type TranslationStats struct {
	Translations    int           // that a device's TLB did not hold
	TranslationTime time.Duration // engine time of those
	Requests        int           // pages that devices asked the kernel for
	RequestTime     time.Duration // the kernel's for those, flushes left out
	Flushes         int           // changes of mappings; each flushes every device in use
	RequestFlush    time.Duration // the kernel's for flushes during page requests
	FlushStall      time.Duration // engine time, while their device's TLB was flushed
}

// ProcessorStats is the time that the processors' threads took, with a Clock.
type ProcessorStats struct {
	Submitting time.Duration // the driver and its submissions
	Touching   time.Duration // page faults
	Faults     int           // page faults
	Flushing   time.Duration // flushes that changes of mappings caused
	Copying    time.Duration
	Waiting    time.Duration // polling for jobs
}

// translated counts the pages of an access that are not in the device's TLB, and caches them.
// It is for machines with a Clock, which run in one thread.
func (d *device) translated(o *outcome, addr uint64, n int, write bool) {
	for page := addr / pageSize; page <= (addr+uint64(n)-1)/pageSize; page++ {
		if !d.tlb.holds(page, write) {
			o.translations++
			d.tlb.insert(page, write)
		}
	}
}

// request lets the kernel make the pages of a job present, and returns when the kernel has
// answered. Machine.mu is held.
func (d *device) request(at time.Duration, o *outcome) time.Duration {
	m := d.m
	t := max(at, d.unit.free)
	for i := range o.requests {
		took := draw(d.unit.rng, m.cfg.IOMMU.Request)
		m.stats.Translation.RequestTime += took
		t += took
		if i < o.remapped {
			flush := m.flush(t)
			m.stats.Translation.RequestFlush += flush
			t += flush
		}
	}
	m.stats.Translation.Requests += o.requests
	d.unit.free = t
	return t
}

// flush flushes a translation in all TLBs, from a moment on, and returns the time that it
// takes. Machine.mu is held.
func (m *Machine) flush(at time.Duration) time.Duration {
	t := at
	m.stats.Translation.Flushes++
	for _, d := range m.devices {
		if !d.inUse() {
			continue
		}
		t += draw(m.flushes, m.cfg.IOMMU.FlushIOTLB)
		took := draw(m.flushes, m.cfg.IOMMU.FlushDevice)
		m.cfg.Clock.after(t-m.cfg.Clock.Now(), func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			d.stalled += took
			d.blocked = max(d.blocked, m.cfg.Clock.Now()+took)
		})
		t += took
	}
	return t - at
}

// remap takes the time of the processor for faults that it takes, and for changes of mappings
// that devices may have cached.
func (m *Machine) remap(faults, remapped int) {
	if m.cfg.Clock == nil || faults == 0 && remapped == 0 {
		return
	}
	touching, flushing := time.Duration(faults)*m.cfg.Timing.Touch, time.Duration(0)
	m.mu.Lock()
	if m.cfg.IOMMU != nil {
		for range remapped {
			flushing += m.flush(m.cfg.Clock.Now() + touching + flushing)
		}
	}
	m.stats.Processor.Faults += faults
	m.stats.Processor.Flushing += flushing
	m.mu.Unlock()
	m.charge(touching, &m.stats.Processor.Touching)
	m.cfg.Clock.Sleep(flushing)
}

// forget drops translations of pages that have changed from all device TLBs.
func (m *Machine) forget(addr uint64, n int) {
	if m.cfg.IOMMU == nil {
		return
	}
	for page := addr / pageSize; page <= (addr+uint64(n)-1)/pageSize; page++ {
		for _, d := range m.devices {
			d.tlb.drop(page)
		}
	}
}

// tlb is the TLB of a device: the oldest entry makes room for a new one.
type tlb struct {
	entries  map[uint64]bool // page to whether it may be written
	order    []uint64        // ring of the pages in entries, some of which were dropped
	next     int
	capacity int
}

func newTLB(capacity int) tlb {
	return tlb{entries: make(map[uint64]bool), order: make([]uint64, max(capacity, 1)), capacity: max(capacity, 1)}
}

func (t *tlb) holds(page uint64, write bool) bool {
	writable, ok := t.entries[page]
	return ok && (writable || !write)
}

func (t *tlb) insert(page uint64, write bool) {
	if _, ok := t.entries[page]; ok {
		t.entries[page] = write
		return
	}
	delete(t.entries, t.order[t.next])
	t.order[t.next] = page
	t.next = (t.next + 1) % t.capacity
	t.entries[page] = write
}

func (t *tlb) drop(page uint64) { delete(t.entries, page) }
