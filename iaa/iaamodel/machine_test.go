package iaamodel

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vmferry/vmferry/iaa"
)

// bench is a machine with one open queue, worked without a driver.
type bench struct {
	t      *testing.T
	m      *Machine
	node   iaa.Node
	portal iaa.Portal
	mem    []byte // page 0: records; 1: AECS; from 2: data
	next   int    // record
}

func newBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	m, err := New(t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, m: m}
	if b.node, err = m.OpenQueue(m.dev + "/wq0.0"); err != nil {
		t.Fatal(err)
	}
	if b.portal, err = b.node.Map(); err != nil && !cfg.Devices[0].Queues[0].RefuseMmap {
		t.Fatal(err)
	}
	if b.mem, err = m.Map(16*pageSize, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Release()
		if err := b.node.Close(); err != nil {
			t.Error(err)
		}
		if err := m.Unmap(b.mem); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) page(i int) []byte { return b.mem[i*pageSize:][:pageSize] }

// record returns a fresh record.
func (b *bench) record() *iaa.Record {
	b.next++
	return (*iaa.Record)(unsafe.Pointer(&b.mem[b.next%64*64]))
}

func addr(rec *iaa.Record) uint64 { return uint64(uintptr(unsafe.Pointer(rec))) }

// inflateDesc is a correct descriptor: page 2 to page 4.
func (b *bench) inflateDesc(srcSize int) (*iaa.Descriptor, *iaa.Record) {
	rec := b.record()
	d := &iaa.Descriptor{
		Record: addr(rec), Src1: addressOf(b.page(2)), Src1Size: uint32(srcSize),
		Dst: addressOf(b.page(4)), MaxDst: pageSize, CodecFlags: iaa.DecompressWhole,
	}
	d.SetOp(iaa.OpDecompress, iaa.FlagRecordValid|iaa.FlagRequestCompletion)
	return d, rec
}

func (b *bench) submit(d *iaa.Descriptor) {
	b.t.Helper()
	if !b.portal.Enqueue(0, d) {
		b.t.Fatal("queue full")
	}
}

// wait returns the completion, or StatusPending after a while.
func (b *bench) wait(rec *iaa.Record) iaa.Completion {
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); {
		if c := rec.Load(); c.Status != iaa.StatusPending {
			return c
		}
		time.Sleep(50 * time.Microsecond)
	}
	return iaa.Completion{}
}

func (b *bench) run(d *iaa.Descriptor, rec *iaa.Record) iaa.Completion {
	b.t.Helper()
	b.submit(d)
	return b.wait(rec)
}

// stream puts a compressible page's stream in page 2.
func (b *bench) stream() (plain []byte, size int) {
	plain = text(rand.New(rand.NewPCG(5, 5)), pageSize)
	return plain, copy(b.page(2), deflated(b.t, plain, 6))
}

func TestMachine_DescriptorMistakes(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(d *iaa.Descriptor)
		want iaa.Status
	}{
		"none":               {func(*iaa.Descriptor) {}, iaa.StatusSuccess},
		"opcode":             {func(d *iaa.Descriptor) { d.SetOp(0x55, d.Flags()) }, iaa.StatusBadOpcode},
		"CRC64":              {func(d *iaa.Descriptor) { d.SetOp(iaa.OpCRC64, d.Flags()) }, iaa.StatusBadOpcode},
		"reserved flag":      {func(d *iaa.Descriptor) { d.OpFlags |= 1 << 5 }, iaa.StatusBadFlags},
		"fence":              {func(d *iaa.Descriptor) { d.OpFlags |= uint32(iaa.FlagFence) }, iaa.StatusBadFlags},
		"block on fault":     {func(d *iaa.Descriptor) { d.OpFlags |= uint32(iaa.FlagBlockOnFault) }, iaa.StatusBadFlags},
		"first word":         {func(d *iaa.Descriptor) { d.Priv = 1 }, iaa.StatusReservedNonzero},
		"interrupt handle":   {func(d *iaa.Descriptor) { d.Interrupt = 1 }, iaa.StatusReservedNonzero},
		"filter":             {func(d *iaa.Descriptor) { d.Filter = 1 }, iaa.StatusReservedNonzero},
		"inputs":             {func(d *iaa.Descriptor) { d.Inputs = 1 }, iaa.StatusReservedNonzero},
		"source 2 unread":    {func(d *iaa.Descriptor) { d.Src2 = 64 }, iaa.StatusReservedNonzero},
		"AECS alignment":     {func(d *iaa.Descriptor) { d.OpFlags |= uint32(iaa.FlagReadAECS); d.Src2 = 16 }, iaa.StatusAECSAlignment},
		"no source":          {func(d *iaa.Descriptor) { d.Src1Size = 0 }, iaa.StatusBadSize},
		"source too large":   {func(d *iaa.Descriptor) { d.Src1Size = defaultTransfer + 1 }, iaa.StatusBadSize},
		"no destination":     {func(d *iaa.Descriptor) { d.MaxDst = 0 }, iaa.StatusBadSize},
		"overlap":            {func(d *iaa.Descriptor) { d.Dst = d.Src1 + 8 }, iaa.StatusOverlap},
		"codec flags":        {func(d *iaa.Descriptor) { d.CodecFlags = 1 << 15 }, iaa.StatusBadCodecFlags},
		"output not enabled": {func(d *iaa.Descriptor) { d.CodecFlags &^= iaa.DecompressEnable }, iaa.StatusBadCodecFlags},
		"heap":               {func(d *iaa.Descriptor) { d.Src1 = addressOf(make([]byte, 64)) }, iaa.StatusInvalidRead},
		"header generation on version 1": {func(d *iaa.Descriptor) {
			d.SetOp(iaa.OpCompress, d.Flags())
			d.CodecFlags = iaa.CompressWhole | iaa.CompressOnePassHeader
		}, iaa.StatusBadCodecFlags},
		"small histogram": {func(d *iaa.Descriptor) {
			d.SetOp(iaa.OpCompress, d.Flags())
			d.CodecFlags, d.MaxDst = iaa.CompressStatistics, iaa.HistogramSize-1
		}, iaa.StatusBadSize},
		"AECS size": {func(d *iaa.Descriptor) {
			d.SetOp(iaa.OpCompress, d.Flags()|iaa.FlagReadAECS)
			d.CodecFlags, d.Src2Size = iaa.CompressWhole, iaa.AECSSize-32
		}, iaa.StatusBadSize},
		"NOOP with a source": {func(d *iaa.Descriptor) { d.SetOp(iaa.OpNoop, d.Flags()) }, iaa.StatusReservedNonzero},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Uniform(1, nil))
			_, n := b.stream()
			d, rec := b.inflateDesc(n)
			test.edit(d)
			if c := b.run(d, rec); c.Status != test.want {
				t.Errorf("got %v, want %v", c.Status, test.want)
			}
		})
	}
}

func TestMachine_MisalignedRecordIsNotWritten(t *testing.T) {
	b := newBench(t, Uniform(1, nil))
	_, n := b.stream()
	d, _ := b.inflateDesc(n)
	d.Record += 32
	b.submit(d)
	for end := time.Now().Add(5 * time.Minute); b.m.Stats().Unreported == 0; {
		if time.Now().After(end) {
			t.Fatal("no error noted")
		}
		time.Sleep(time.Millisecond)
	}
	for _, x := range b.page(0) {
		if x != 0 {
			t.Fatal("record page written to")
		}
	}
}

func TestMachine_PageFaultsOnEveryAccess(t *testing.T) {
	for _, test := range []struct {
		name  string
		page  int
		write bool
	}{{"source", 2, false}, {"destination", 4, true}} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, Uniform(1, nil))
			plain, n := b.stream()
			b.m.Evict(b.page(test.page))
			d, rec := b.inflateDesc(n)
			want := iaa.StatusReadFault
			if test.write {
				want = iaa.StatusWriteFault
			}
			if c := b.run(d, rec); c.Status != want || rec.FaultAddr != addressOf(b.page(test.page)) {
				t.Fatalf("got %v at %#x, want %v at %#x", c.Status, rec.FaultAddr, want, addressOf(b.page(test.page)))
			}
			b.m.Touch((*uint32)(unsafe.Pointer(&b.page(test.page)[0])), test.write)
			d, rec = b.inflateDesc(n)
			if c := b.run(d, rec); c.Status != iaa.StatusSuccess || !bytes.Equal(b.page(4), plain) {
				t.Errorf("after a touch: %v", c.Status)
			}
		})
	}
	t.Run("reading is not enough to write", func(t *testing.T) {
		b := newBench(t, Uniform(1, nil))
		_, n := b.stream()
		b.m.Evict(b.page(4))
		b.m.Touch((*uint32)(unsafe.Pointer(&b.page(4)[0])), false)
		d, rec := b.inflateDesc(n)
		if c := b.run(d, rec); c.Status != iaa.StatusWriteFault {
			t.Errorf("got %v, want %v", c.Status, iaa.StatusWriteFault)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		b := newBench(t, Uniform(1, nil))
		_, n := b.stream()
		b.m.Protect(b.page(4))
		d, rec := b.inflateDesc(n)
		if c := b.run(d, rec); c.Status.Class() != iaa.StatusReadFault {
			t.Errorf("got %v, want a write fault", c.Status)
		}
	})
}

func TestMachine_RecordFault(t *testing.T) {
	for _, version := range []uint32{0x100, 0x200} {
		cfg := Uniform(1, func(d *Device) { d.Version = version })
		cfg.Script.Run = func(Job) Action { return Action{Evict: AccessRecord} }
		b := newBench(t, cfg)
		_, n := b.stream()
		d, rec := b.inflateDesc(n)
		b.submit(d)
		if version == 0x200 { // the kernel reports in the device's place
			if c := b.wait(rec); c.Status != iaa.StatusRecordFault {
				t.Errorf("version 2: got %v, want %v", c.Status, iaa.StatusRecordFault)
			}
			continue
		}
		for end := time.Now().Add(5 * time.Minute); b.m.Stats().Unreported == 0; {
			if time.Now().After(end) {
				t.Fatal("version 1: no error noted")
			}
			time.Sleep(time.Millisecond)
		}
		if c := rec.Load(); c.Status != iaa.StatusPending {
			t.Errorf("version 1: record written: %v", c.Status)
		}
	}
}

func TestMachine_BlockOnFaultWaits(t *testing.T) {
	b := newBench(t, Uniform(1, func(d *Device) { d.Queues[0].BlockOnFault = true }))
	plain, n := b.stream()
	b.m.Evict(b.page(4))
	d, rec := b.inflateDesc(n)
	d.SetOp(d.Op(), d.Flags()|iaa.FlagBlockOnFault)
	if c := b.run(d, rec); c.Status != iaa.StatusSuccess || !bytes.Equal(b.page(4), plain) {
		t.Errorf("got %v", c.Status)
	}
	if s := b.m.Stats(); s.Resolved != 1 || s.FaultStall < time.Microsecond || s.Faults != 0 {
		t.Errorf("stats: %+v", s)
	}
	b.m.Userfault(b.page(4))
	d, rec = b.inflateDesc(n)
	d.SetOp(d.Op(), d.Flags()|iaa.FlagBlockOnFault)
	if c := b.run(d, rec); c.Status != iaa.StatusInvalidWrite {
		t.Errorf("userfaultfd page: got %v, want %v", c.Status, iaa.StatusInvalidWrite)
	}
}

func TestMachine_Occupancy(t *testing.T) {
	hang := Script{Run: func(Job) Action { return Action{Fate: FateHang} }}
	// awaitTaken waits until the engine has taken a job, which then hangs.
	awaitTaken := func(b *bench) {
		for {
			b.m.mu.Lock()
			taken := b.m.stats.Accepted > b.m.queues[b.m.dev+"/wq0.0"].waiting
			b.m.mu.Unlock()
			if taken {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	t.Run("shared queue answers", func(t *testing.T) {
		cfg := Uniform(1, func(d *Device) { d.Engines, d.Queues[0].Size, d.Queues[0].Threshold = 1, 16, 4 })
		cfg.Script = hang
		b := newBench(t, cfg)
		n := 0
		for range 40 {
			d, _ := b.inflateDesc(1)
			d.Dst += uint64(pageSize * n)
			if b.portal.Enqueue(n, d) {
				n++
			}
			awaitTaken(b)
		}
		if n != 5 { // the threshold, and one on the engine
			t.Errorf("%d taken, want 5", n)
		}
	})
	t.Run("write says again", func(t *testing.T) {
		cfg := Uniform(1, func(d *Device) { d.Engines, d.Queues[0].Size = 1, 2 })
		cfg.Script = hang
		b := newBench(t, cfg)
		var descs []iaa.Descriptor
		for i := range 6 {
			d, _ := b.inflateDesc(1)
			d.Dst += uint64(pageSize * i)
			descs = append(descs, *d)
		}
		n, err := b.node.Write(descs)
		if err != nil || n >= len(descs) || n < 2 {
			t.Fatalf("took %d of 6, error %v: want a short write", n, err)
		}
		for err == nil {
			_, err = b.node.Write(descs[5:])
			descs[5].Record += 64
			descs[5].Dst += pageSize
		}
		if !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("full queue: %v, want EAGAIN", err)
		}
		descs[0].Record += 8
		if _, err := b.node.Write(descs[:1]); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("record not aligned: %v, want EINVAL", err)
		}
	})
	t.Run("dedicated queue drops", func(t *testing.T) {
		cfg := Uniform(1, func(d *Device) { d.Engines, d.Queues[0] = 1, Queue{Mode: "dedicated", Size: 2} })
		cfg.Script = hang
		b := newBench(t, cfg)
		for i := range 5 {
			d, _ := b.inflateDesc(1)
			d.Dst += uint64(pageSize * i)
			b.portal.Store(i, d)
			awaitTaken(b) // the first
		}
		if s := b.m.Stats(); s.Dropped != 2 || s.Accepted != 3 {
			t.Errorf("stats: %+v, want 3 accepted and 2 dropped", s)
		}
		if v := b.m.Violations(); len(v) != 2 || !strings.Contains(v[0], "overrun") {
			t.Errorf("violations: %q", v)
		}
		if _, err := b.m.OpenQueue(b.m.dev + "/wq0.0"); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("second open: %v, want EBUSY", err)
		}
	})
	t.Run("to order", func(t *testing.T) {
		b := newBench(t, Uniform(1, nil))
		_, n := b.stream()
		if err := b.m.Refuse("wq0.0", 2); err != nil {
			t.Fatal(err)
		}
		d, rec := b.inflateDesc(n)
		got := fmt.Sprint(b.portal.Enqueue(0, d), b.portal.Enqueue(0, d), b.portal.Enqueue(0, d))
		if got != "false false true" || b.wait(rec).Status != iaa.StatusSuccess {
			t.Errorf("answers: %s", got)
		}
	})
}

func TestMachine_DrainWaitsForEarlierJobs(t *testing.T) {
	cfg := Uniform(1, nil)
	cfg.Script.Run = func(Job) Action { return Action{Delay: 30 * time.Millisecond} }
	b := newBench(t, cfg)
	_, n := b.stream()
	d, rec := b.inflateDesc(n)
	b.submit(d)
	drainRec := b.record()
	drain := &iaa.Descriptor{Record: addr(drainRec)}
	drain.SetOp(iaa.OpDrain, iaa.FlagRecordValid|iaa.FlagRequestCompletion)
	if c := b.run(drain, drainRec); c.Status != iaa.StatusSuccess {
		t.Fatalf("DRAIN: %v", c.Status)
	}
	if c := rec.Load(); c.Status != iaa.StatusSuccess {
		t.Errorf("DRAIN completed before the job: %v", c.Status)
	}
}

func TestMachine_ScriptedCompletions(t *testing.T) {
	for name, test := range map[string]struct {
		action Action
		check  func(rec *iaa.Record, c iaa.Completion, out, plain []byte) bool
	}{
		"status": {Action{Status: iaa.StatusWatchdog}, func(_ *iaa.Record, c iaa.Completion, _, _ []byte) bool {
			return c.Status == iaa.StatusWatchdog
		}},
		"wrong size": {Action{Resize: 7}, func(rec *iaa.Record, c iaa.Completion, _, _ []byte) bool {
			return c.Status == iaa.StatusSuccess && rec.OutputSize == pageSize+7
		}},
		"wrong bytes": {Action{Corrupt: true}, func(_ *iaa.Record, c iaa.Completion, out, plain []byte) bool {
			return c.Status == iaa.StatusSuccess && !bytes.Equal(out, plain)
		}},
		"stale": {Action{Stale: true}, func(rec *iaa.Record, c iaa.Completion, _, _ []byte) bool {
			return c.Status == iaa.StatusSuccess && rec.OutputSize == 0
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Uniform(1, nil)
			cfg.Script.Run = func(Job) Action { return test.action }
			b := newBench(t, cfg)
			plain, n := b.stream()
			d, rec := b.inflateDesc(n)
			if c := b.run(d, rec); !test.check(rec, c, b.page(4), plain) {
				t.Errorf("completion %v, output size %d", c.Status, rec.OutputSize)
			}
		})
	}
}

func TestMachine_ReuseIsAViolation(t *testing.T) {
	cfg := Uniform(1, nil)
	cfg.Script.Run = func(Job) Action { return Action{Fate: FateVanish} }
	b := newBench(t, cfg)
	d, _ := b.inflateDesc(10)
	b.submit(d)
	b.submit(d)
	if v := b.m.Violations(); len(v) != 2 { // record and destination
		t.Errorf("violations: %q", v)
	}
}
