package iaa

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// TestInstructions_AgreeWithTheKernel compares CPUID with /proc/cpuinfo.
func TestInstructions_AgreeWithTheKernel(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || runtime.GOARCH != "amd64" {
		if got := hostInstructions(); runtime.GOARCH != "amd64" && got != (Instructions{}) {
			t.Errorf("instructions of x86-64 on %s: %+v", runtime.GOARCH, got)
		}
		return
	}
	flags := strings.Fields(string(info))
	want := Instructions{
		ENQCMD:    slices.Contains(flags, "enqcmd"),
		MOVDIR64B: slices.Contains(flags, "movdir64b"),
		WAITPKG:   slices.Contains(flags, "waitpkg"),
	}
	got := hostInstructions()
	// Hypervisors and kernels may hide from cpuinfo what CPUID shows.
	if want.ENQCMD && !got.ENQCMD || want.MOVDIR64B != got.MOVDIR64B || want.WAITPKG && !got.WAITPKG {
		t.Errorf("CPUID says %+v, the kernel %+v", got, want)
	}
}

// TestInstructions_Movdir64b stores descriptors to each slot of a page of ordinary memory, by
// the portal that a dedicated queue would have. Without the instruction it
// asserts that the driver would not use it.
func TestInstructions_Movdir64b(t *testing.T) {
	page, err := (&host{}).Map(portalSize, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := (&host{}).Unmap(page); err != nil {
			t.Error(err)
		}
	}()
	if !hostInstructions().MOVDIR64B {
		q, problem := openQueue(fakeSystem{page}, QueueInfo{Mode: modeDedicated, Size: 1}, 1, false)
		if problem != nil || q.via != viaWrite {
			t.Errorf("without MOVDIR64B the queue is opened for %v, problem %v", q, problem)
		}
		return
	}
	p := hostPortal(page)
	for slot := range PortalSlots {
		d := &Descriptor{Src1: uint64(slot) + 1, Inputs: 0xa5a5a5a5}
		d.SetOp(OpCompress, FlagRecordValid)
		p.Store(slot, d)
		if got := *(*Descriptor)(unsafe.Pointer(&page[64*slot])); got != *d {
			t.Errorf("slot %d holds %+v, want %+v", slot, got, *d)
		}
	}
	for slot := range PortalSlots { // none has overwritten another
		if got := descriptorAt(page[64*slot:]); got.Src1 != uint64(slot)+1 {
			t.Errorf("slot %d holds source %d", slot, got.Src1)
		}
	}
}

// fakeSystem opens queues whose portal is a page of ordinary memory.
type fakeSystem struct{ page []byte }

func (f fakeSystem) OpenQueue(string) (Node, error)    { return fakeNode(f), nil }
func (f fakeSystem) Instructions() Instructions        { return hostInstructions() }
func (f fakeSystem) Map(n int, p bool) ([]byte, error) { return (&host{}).Map(n, p) }
func (f fakeSystem) Unmap(m []byte) error              { return (&host{}).Unmap(m) }
func (f fakeSystem) Touch(w *uint32, write bool)       { (&host{}).Touch(w, write) }
func (f fakeSystem) Copy(dst, src []byte)              { copy(dst, src) }
func (f fakeSystem) Now() time.Duration                { return 0 }
func (f fakeSystem) Relax(*uint32, uint32, int)        {}

type fakeNode struct{ page []byte }

func (n fakeNode) Map() (Portal, error)              { return hostPortal(n.page), nil }
func (n fakeNode) Write(d []Descriptor) (int, error) { return len(d), nil }
func (n fakeNode) Close() error                      { return nil }

func TestHost_RelaxAndTouch(t *testing.T) {
	h := defaultSystem()
	mem, err := h.Map(2*osPage, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Unmap(mem); err != nil {
			t.Error(err)
		}
	}()
	mem[100], mem[osPage+5] = 7, 9
	if err := touch(h, mem[3:osPage+10], true); err != nil {
		t.Error(err)
	}
	if err := touch(h, mem, false); err != nil {
		t.Error(err)
	}
	if mem[100] != 7 || mem[osPage+5] != 9 {
		t.Error("touching changed what the memory holds")
	}
	word := word(mem, 0)
	start := h.Now()
	for round := range yieldRounds + 4 {
		h.Relax(word, 0, round)
		h.Relax(nil, 0, round)
	}
	if took := h.Now() - start; took < 8*sleepStep || took > 5*time.Second {
		t.Errorf("relaxing took %v, want eight sleeps of %v and little more", took, sleepStep)
	}
}

func TestHost_TouchOfUnmappedMemoryIsAnError(t *testing.T) {
	h := defaultSystem()
	mem, err := h.Map(osPage, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Unmap(mem); err != nil {
		t.Fatal(err)
	}
	if err := touch(h, mem, true); err == nil || !strings.Contains(err.Error(), "not accessible") {
		t.Errorf("touching unmapped memory: %v", err)
	}
}
