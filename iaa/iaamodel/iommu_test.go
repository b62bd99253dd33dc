package iaamodel

import (
	"testing"
	"time"
	"unsafe"

	"github.com/vmferry/vmferry/iaa"
)

// always is a latency without chance.
func always(d time.Duration) Latency { return Latency{{1, d, d}} }

// exactIOMMU has costs that tell the causes of a time apart.
func exactIOMMU() *IOMMU {
	return &IOMMU{Entries: 64, Translation: time.Microsecond, Request: always(100 * time.Microsecond),
		FlushIOTLB: always(10 * time.Millisecond), FlushDevice: always(20 * time.Millisecond)}
}

// iommuBench is a bench whose machine has devices of one queue each, without chance.
func iommuBench(t *testing.T, devices int, iommu *IOMMU) (*bench, *Clock) {
	clock := NewClock()
	timing := PublishedTiming
	timing.Jitter, timing.Enqcmd, timing.Poll, timing.DeviceRate = 0, 0, 0, 0
	cfg := Uniform(devices, func(d *Device) { d.Queues[0].BlockOnFault = true })
	cfg.Clock, cfg.Timing, cfg.IOMMU = clock, &timing, iommu
	return newBench(t, cfg), clock
}

// inflateTo submits a job to a queue of a device that inflates page 2 to dst, and returns its
// record.
func (b *bench) inflateTo(queue iaa.Portal, dst []byte, size int) *iaa.Record {
	d, rec := b.inflateDesc(size)
	d.Dst = addressOf(dst)
	d.SetOp(iaa.OpDecompress, d.Flags()|iaa.FlagBlockOnFault)
	if !queue.Enqueue(0, d) {
		b.t.Fatal("the queue is full")
	}
	return rec
}

// until lets time pass until the record has succeeded, and returns the time.
func (b *bench) until(clock *Clock, rec *iaa.Record) time.Duration {
	b.t.Helper()
	for rec.Load().Status == iaa.StatusPending {
		b.m.Relax(nil, 0, 0)
	}
	if s := rec.Load().Status; s != iaa.StatusSuccess {
		b.t.Fatalf("status %#x", s)
	}
	return clock.Now()
}

func wordOf(mem []byte) *uint32 { return (*uint32)(unsafe.Pointer(&mem[0])) }

const jobTime = 1200*time.Nanosecond + 2007*time.Nanosecond

// near reports whether two times differ by rounding only.
func near(a, b time.Duration) bool { return a-b < 10 && b-a < 10 }

func TestIOMMU_PageRequestsOfADeviceAreServedOneAfterTheOther(t *testing.T) {
	for _, units := range []int{0, 1} {
		iommu := exactIOMMU()
		iommu.Units = units
		b, clock := iommuBench(t, 2, iommu)
		other, err := b.m.OpenQueue(b.m.dev + "/wq1.0")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		portal, err := other.Map()
		if err != nil {
			t.Fatal(err)
		}
		_, size := b.stream()
		guest, err := b.m.Guest(4*pageSize, false)
		if err != nil {
			t.Fatal(err)
		}
		began := clock.Now()
		first := b.inflateTo(b.portal, guest[:pageSize], size)
		second := b.inflateTo(b.portal, guest[pageSize:2*pageSize], size)
		third := b.inflateTo(portal, guest[2*pageSize:3*pageSize], size)
		// Three translations: of the source, of the destination before and after the fault.
		one := 3*time.Microsecond + 100*time.Microsecond + jobTime
		want := []time.Duration{one, one + 100*time.Microsecond, one}
		if units == 1 { // the other device's request waits for both
			want[2] = one + 200*time.Microsecond
		}
		for i, rec := range []*iaa.Record{first, third, second} {
			k := []int{0, 2, 1}[i]
			if units == 1 {
				k = i
				rec = []*iaa.Record{first, second, third}[i]
			}
			if took := b.until(clock, rec) - began; took < want[k]-2*time.Microsecond || took > want[k]+10 {
				t.Errorf("%d units: job %d took %v, want %v", units, k, took, want[k])
			}
		}
		s := b.m.Stats()
		if s.Translation.Requests != 3 || s.Translation.RequestTime != 300*time.Microsecond || s.Translation.Flushes != 0 || s.Resolved != 3 {
			t.Errorf("%d units: %+v", units, s)
		}
	}
}

func TestIOMMU_AMappingThatChangesIsFlushed(t *testing.T) {
	b, clock := iommuBench(t, 1, exactIOMMU())
	_, size := b.stream()
	guest, err := b.m.Guest(4*pageSize, false)
	if err != nil {
		t.Fatal(err)
	}
	zero, absent := guest[:pageSize], guest[pageSize:2*pageSize]

	began := clock.Now()
	b.m.Read(zero)
	if took := clock.Now() - began; took != PublishedTiming.Touch || b.m.Stats().Translation.Flushes != 0 {
		t.Errorf("reading an absent page takes %v and %d flushes", took, b.m.Stats().Translation.Flushes)
	}
	b.m.Read(zero)
	if s := b.m.Stats().Processor; s.Faults != 1 {
		t.Errorf("reading a page twice: %d faults", s.Faults)
	}
	// A device that writes to the page waits for the request and for both flushes.
	began = clock.Now()
	took := b.until(clock, b.inflateTo(b.portal, zero, size)) - began
	if want := 3*time.Microsecond + 100*time.Microsecond + 30*time.Millisecond + jobTime; !near(took, want) {
		t.Errorf("writing to a page that maps the zero page takes %v, want %v", took, want)
	}
	if s := b.m.Stats().Translation; s.Flushes != 1 || s.RequestFlush != 30*time.Millisecond {
		t.Errorf("%+v", s)
	}
	// The processor that writes to such a page waits for the flushes.
	b.m.Read(absent)
	began = clock.Now()
	b.m.Touch(wordOf(absent), true)
	if took := clock.Now() - began; took != PublishedTiming.Touch+30*time.Millisecond {
		t.Errorf("writing to a page that maps the zero page takes the processor %v", took)
	}
	if s := b.m.Stats(); s.Translation.Flushes != 2 || s.Processor.Flushing != 30*time.Millisecond {
		t.Errorf("%+v", s)
	}
}

// TestIOMMU_EnginesStallDuringAFlush flushes the device's TLB from 1.5 us to 51.5 us after the
// submission of a job, which has begun to compute before or begins meanwhile.
func TestIOMMU_EnginesStallDuringAFlush(t *testing.T) {
	for translation, want := range map[time.Duration]time.Duration{
		0:                jobTime + 50*time.Microsecond,
		time.Microsecond: 51500*time.Nanosecond + jobTime, // of the source and the destination
	} {
		iommu := exactIOMMU()
		iommu.Translation, iommu.FlushIOTLB, iommu.FlushDevice = translation, always(time.Microsecond), always(50*time.Microsecond)
		b, clock := iommuBench(t, 1, iommu)
		_, size := b.stream()
		guest, err := b.m.Guest(pageSize, false)
		if err != nil {
			t.Fatal(err)
		}
		b.m.Read(guest)
		began := clock.Now()
		rec := b.inflateTo(b.portal, b.page(4), size)
		b.m.Touch(wordOf(guest), true)
		if took := b.until(clock, rec) - began; !near(took, want) {
			t.Errorf("translations of %v: the job takes %v during a flush, want %v", translation, took, want)
		}
		if s, want := b.m.Stats().Translation, want-jobTime-2*translation; !near(s.FlushStall, want) {
			t.Errorf("translations of %v: %+v, want %v of stall", translation, s, want)
		}
	}
}

func TestTLB_OldestEntryMakesRoom(t *testing.T) {
	c := newTLB(2)
	c.insert(1, false)
	c.insert(2, true)
	if !c.holds(1, false) || c.holds(1, true) || !c.holds(2, true) {
		t.Error("a translation for reading is none for writing")
	}
	c.insert(1, true)
	if !c.holds(1, true) {
		t.Error("the new translation is not kept")
	}
	c.insert(3, false)
	if c.holds(1, false) || !c.holds(2, false) || !c.holds(3, false) {
		t.Error("the oldest entry was not replaced")
	}
	c.drop(3)
	c.insert(3, true)
	if c.holds(2, false) && len(c.entries) > 2 {
		t.Error("more entries than the TLB has")
	}
	if !c.holds(3, true) {
		t.Error("a dropped page cannot be kept again")
	}
}
