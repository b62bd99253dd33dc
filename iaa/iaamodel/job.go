package iaamodel

import (
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/vmferry/vmferry/iaa"
)

// job is an accepted descriptor.
type job struct {
	q      *queue
	seq    uint64
	desc   iaa.Descriptor
	action Action
}

// String names the job in violations.
func (j *job) String() string { return fmt.Sprintf("%s job %d (%v)", j.q.name, j.seq, j.desc.Op()) }

// writes lists where a device may write for the job.
func (j *job) writes() []uint64 {
	w := []uint64{j.desc.Record}
	if j.desc.Dst != 0 {
		w = append(w, j.desc.Dst)
	}
	return w
}

// outcome is the result of a job, not yet visible to the processor.
type outcome struct {
	completion iaa.Completion
	used       uint32 // source bytes consumed
	output     []byte // to be written to the destination
	faultAddr  uint64
	crc        uint32
	stall      time.Duration // waited for page faults, without an IOMMU

	translations int // that the device's TLB did not hold
	requests     int // pages that the kernel has to make present or writable
	remapped     int // of those, pages that were mapped before
	work         int // bytes of the page, what the time depends on
}

func failed(s iaa.Status) *outcome { return &outcome{completion: iaa.Completion{Status: s}} }

// scratch is an engine's private memory.
type scratch struct {
	match matcher
	z     inflater
	tab   aecs
	out   []byte
}

func (s *scratch) buffer(n int) []byte {
	if cap(s.out) < n {
		s.out = make([]byte, n)
	}
	return s.out[:n]
}

// run executes a job up to the point where its results could be written.
func (m *Machine) run(j *job, s *scratch) *outcome {
	m.evictFor(j)
	if status := m.check(j.q, &j.desc); status != iaa.StatusPending {
		return failed(status)
	}
	if j.action.Status != 0 {
		return &outcome{completion: iaa.Completion{Status: j.action.Status, Code: j.action.Code}}
	}
	if j.desc.Op() == iaa.OpNoop {
		return failed(iaa.StatusSuccess)
	}
	o := &outcome{work: int(j.desc.Src1Size)}
	src, f := m.reach(j, o, j.desc.Src1, int(j.desc.Src1Size), false)
	if f == nil && j.desc.Flags()&iaa.FlagReadAECS != 0 {
		var mem []byte
		if mem, f = m.reach(j, o, j.desc.Src2, int(j.desc.Src2Size), false); f == nil && !m.load(&s.tab, mem) {
			o.completion = iaa.Completion{Status: iaa.StatusAnalyticsError, Code: iaa.CodeAECS}
			return o
		}
	}
	if f != nil {
		return o.fault(f)
	}
	work := func() {
		if j.desc.Op() == iaa.OpCompress {
			m.runCompress(j, o, s, src)
		} else {
			m.runInflate(j, o, s, src)
		}
	}
	if m.memo.memoizes(j, &s.tab) {
		m.memo.do(j, o, src, work)
	} else {
		work()
	}
	if len(o.output) > 0 {
		// Only the pages that output goes to are written, and so may fault.
		if _, f := m.reach(j, o, j.desc.Dst, len(o.output), true); f != nil {
			return o.fault(f)
		}
	}
	return o
}

// load reads the AECS under the memory lock.
func (m *Machine) load(tab *aecs, mem []byte) bool {
	m.mem.mu.RLock()
	defer m.mem.mu.RUnlock()
	return tab.parse(mem)
}

func (m *Machine) runCompress(j *job, o *outcome, s *scratch, src []byte) {
	m.mem.mu.RLock()
	defer m.mem.mu.RUnlock()
	out := s.buffer(int(j.desc.MaxDst))
	o.used, o.crc = uint32(len(src)), crc32.ChecksumIEEE(src)
	flags := j.desc.CodecFlags
	if flags == iaa.CompressStatistics {
		s.match.statistics(out, src)
		o.output = out[:iaa.HistogramSize]
		o.completion.Status = iaa.StatusSuccess
		return
	}
	if flags&iaa.CompressOnePassHeader != 0 {
		s.match.ownTables(&s.tab, src)
	}
	n, code := s.match.compress(out, src, &s.tab, flags&iaa.CompressEndBlock != 0)
	if code != 0 {
		o.completion = iaa.Completion{Status: iaa.StatusAnalyticsError, Code: code}
		return
	}
	o.output = out[:n]
	o.completion.Status = iaa.StatusSuccess
}

func (m *Machine) runInflate(j *job, o *outcome, s *scratch, src []byte) {
	m.mem.mu.RLock()
	defer m.mem.mu.RUnlock()
	out := s.buffer(int(j.desc.MaxDst))
	r := s.z.inflate(out, src)
	o.used, o.work = uint32(r.used), max(r.n, len(src))
	switch {
	case r.overflow:
		o.completion.Status = iaa.StatusOutputOverflow
	case r.code != 0:
		o.completion = iaa.Completion{Status: iaa.StatusAnalyticsError, Code: r.code}
	default:
		o.output, o.crc = out[:r.n], crc32.ChecksumIEEE(out[:r.n])
		o.completion.Status = iaa.StatusSuccess
	}
}

// fault turns the outcome into a page fault report.
func (o *outcome) fault(f *fault) *outcome {
	o.completion = iaa.Completion{Status: iaa.StatusReadFault, FaultInfo: 1}
	if f.fixed == 0 && f.never || f.never && o.stall > 0 {
		o.completion.Status = iaa.StatusInvalidRead
	}
	if f.write {
		o.completion.Status |= 0x80
		o.completion.FaultInfo |= 2
	}
	o.faultAddr, o.output, o.used = f.addr, nil, 0
	return o
}

// reach translates an access. With block-on-fault the kernel makes pages present, which
// takes time; otherwise the caller reports the fault.
func (m *Machine) reach(j *job, o *outcome, addr uint64, n int, write bool) ([]byte, *fault) {
	mem, f := m.translate(addr, n, write)
	modelled := m.cfg.IOMMU != nil && mem != nil
	if modelled {
		j.q.dev.translated(o, addr, n, write)
	}
	if f == nil || j.desc.Flags()&iaa.FlagBlockOnFault == 0 {
		return mem, f
	}
	if modelled {
		o.requests += f.fixed
		o.remapped += f.remapped
		o.translations += f.fixed // asked again after the answer
	} else {
		o.stall += m.faultTime(f.fixed)
	}
	if f.never {
		return nil, f
	}
	m.mem.set(addr, n, touched(write))
	return mem, nil
}

func (m *Machine) translate(addr uint64, n int, write bool) ([]byte, *fault) {
	m.mem.mu.RLock()
	defer m.mem.mu.RUnlock()
	return m.mem.access(addr, n, write)
}

// commit makes an outcome visible: the output, the record's fields, and last its
// status. It applies the script's changes to a success.
func (m *Machine) commit(j *job, o *outcome) {
	if len(o.output) > 0 {
		m.mem.mu.RLock()
		// The page may have been evicted since it was translated; the device's own
		// translation is still valid.
		if r := m.mem.find(j.desc.Dst, len(o.output)); r != nil {
			dst := r.mem[j.desc.Dst-r.base:][:len(o.output)]
			copy(dst, o.output)
			if j.action.Corrupt {
				dst[int(j.seq)%len(dst)] ^= 0x10
			}
		}
		m.mem.mu.RUnlock()
	}
	m.report(j, o)
}

// report writes the record. If the record cannot be written, the kernel writes it for
// version 2 devices, with a status of its own. Version 1 devices log an error that
// processes do not see.
func (m *Machine) report(j *job, o *outcome) {
	d := &j.desc
	if d.Record%iaa.DescriptorSize != 0 || d.Flags()&iaa.FlagRecordValid == 0 {
		m.unreported.Add(1)
		return
	}
	if d.Flags()&iaa.FlagRequestCompletion == 0 && o.completion.Status == iaa.StatusSuccess {
		return
	}
	if _, f := m.translate(d.Record, iaa.DescriptorSize, true); f != nil {
		switch {
		case f.never, j.q.dev.cfg.Version < 0x200 && d.Flags()&iaa.FlagBlockOnFault == 0:
			m.unreported.Add(1)
			return
		case d.Flags()&iaa.FlagBlockOnFault == 0:
			o = failed(iaa.StatusRecordFault)
			o.faultAddr = d.Record
		}
		m.mem.set(d.Record, iaa.DescriptorSize, touched(true))
	}
	m.mem.mu.RLock()
	defer m.mem.mu.RUnlock()
	r := m.mem.find(d.Record, iaa.DescriptorSize)
	if r == nil {
		m.unreported.Add(1)
		return
	}
	rec := (*iaa.Record)(unsafe.Pointer(&r.mem[d.Record-r.base:][:iaa.DescriptorSize][0]))
	if !j.action.Stale {
		rec.FaultAddr = o.faultAddr
		rec.BytesCompleted = o.used
		rec.OutputSize = uint32(len(o.output) + j.action.Resize)
		rec.CRC = o.crc
	}
	rec.Store(o.completion)
}

// evictFor evicts the memory that the script names before the job runs.
func (m *Machine) evictFor(j *job) {
	d := &j.desc
	for _, part := range []struct {
		which Access
		addr  uint64
		n     uint32
	}{
		{AccessSource, d.Src1, d.Src1Size},
		{AccessDestination, d.Dst, d.MaxDst},
		{AccessAECS, d.Src2, d.Src2Size},
		{AccessRecord, d.Record, iaa.DescriptorSize},
	} {
		if j.action.Evict&part.which != 0 && part.n > 0 {
			m.mem.set(part.addr, int(part.n), evicted)
		}
	}
}

func touchWord(word *uint32, write bool) {
	if write {
		atomic.AddUint32(word, 0)
		return
	}
	atomic.LoadUint32(word)
}

func addressOfWord(word *uint32) uint64 { return uint64(uintptr(unsafe.Pointer(word))) }
