package guestmem

import (
	"bytes"
	"errors"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/hugepages"
)

func reserveHugePages(t testing.TB, n int) {
	t.Helper()
	giveBack, err := hugepages.Reserve(n)
	if err != nil {
		if os.Getuid() != 0 {
			t.Skipf("setting huge pages aside needs root: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(giveBack)
}

func mapped(t testing.TB, opts Options, length uint64) *Memory {
	t.Helper()
	m, err := NewWith(mustLayout(t, 4096, guest.Block{Name: "pc.ram", Length: length}), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// faultsOf returns the minor page faults that do takes in its own thread:
// those of the garbage collector and of other tests are not its.
func faultsOf(t testing.TB, do func()) int64 {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	count := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			t.Fatal(err)
		}
		return u.Minflt
	}
	before := count()
	do()
	return count() - before
}

func TestMemoryOfEveryKindIsZeroedWritableAndPresentIfAskedFor(t *testing.T) {
	reserveHugePages(t, 8)
	const length = 5<<20 + 4096 // no whole number of huge pages
	for _, backing := range []Backing{"", Anonymous, Memfd} {
		for _, kind := range []PageKind{"", SmallPages, TransparentHuge, HugeTLB} {
			for _, prealloc := range []Prealloc{"", PreallocNone, PreallocTouch, PreallocPopulate} {
				t.Run(string(backing)+"/"+string(kind)+"/"+string(prealloc), func(t *testing.T) {
					opts := Options{Backing: backing, Pages: kind, Prealloc: prealloc, Workers: 2}
					if _, err := transparentPage(backing); kind == TransparentHuge && err != nil {
						if _, err := NewWith(mustLayout(t, 4096, guest.Block{Name: "a", Length: length}), opts); !errors.Is(err, ErrNoHugePages) {
							t.Errorf("transparent huge pages are off here, and mapping says %v", err)
						}
						return
					}
					m := mapped(t, opts, length)
					mem := m.Bytes(m.Layout().Blocks[0])
					if len(mem) != length || cap(mem) != length {
						t.Fatalf("%d bytes, room for %d; want %d", len(mem), cap(mem), length)
					}
					if want := uint64(2 << 20); kind == HugeTLB && m.BackingPage(m.Layout().Blocks[0]) != want {
						t.Errorf("backed by pages of %d bytes", m.BackingPage(m.Layout().Blocks[0]))
					}
					got := faultsOf(t, func() {
						for at := 0; at < length; at += 4096 {
							mem[at]++
						}
					})
					if present := prealloc == PreallocTouch || prealloc == PreallocPopulate; present && got > 20 {
						t.Errorf("%d page faults in memory that was preallocated", got)
					} else if !present && kind != HugeTLB && kind != TransparentHuge && got < length/4096 {
						t.Errorf("%d page faults in %d pages that nobody preallocated: this test would not see one", got, length/4096)
					}
					for at := 0; at < length; at += 4096 {
						if mem[at] != 1 {
							t.Fatalf("byte %#x was %d", at, mem[at]-1)
						}
					}
				})
			}
		}
	}
}

func TestAMemfdIsSharedAndCannotBeShrunk(t *testing.T) {
	m := mapped(t, Options{Backing: Memfd}, 1<<20)
	b := m.Layout().Blocks[0]
	other, err := unix.Mmap(int(m.File(b).Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(other)
	copy(other[4096:], "from elsewhere")
	if !bytes.HasPrefix(m.Bytes(b)[4096:], []byte("from elsewhere")) {
		t.Error("what was written through the other mapping is not there")
	}
	if err := m.File(b).Truncate(0); err == nil {
		t.Error("the file was shrunk under the memory")
	}
	if anonymous := mapped(t, Options{}, 1<<20); anonymous.File(anonymous.Layout().Blocks[0]) != nil {
		t.Error("anonymous memory has a file")
	}
}

func TestTransparentHugePagesComeWhole(t *testing.T) {
	if !Available(Options{Pages: TransparentHuge}) || Available(Options{Pages: HugeTLB, HugePageSize: 3 << 20}) {
		t.Error("what is available is not what is there")
	}
	m := mapped(t, Options{Pages: TransparentHuge}, 8<<20)
	mem := m.Bytes(m.Layout().Blocks[0])
	if at := uintptr(unsafe.Pointer(&mem[0])); at%(2<<20) != 0 {
		t.Errorf("mapped at %#x, where no huge page begins", at)
	}
	got := faultsOf(t, func() {
		for at := 0; at < len(mem); at += 4096 {
			mem[at] = 1
		}
	})
	if got > 1000 {
		t.Errorf("%d page faults for 4 huge pages", got)
	}
}

func TestMemoryThatCannotBeHadIsATypedError(t *testing.T) {
	free, err := readNumber(poolFolder(hugepages.Size) + "/free_hugepages")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		length uint64
		opts   Options
		want   error
		text   string
	}{
		{"more than there is, populated", 1 << 45, Options{Prealloc: PreallocPopulate}, ErrNoMemory, "MiB are available"},
		{"more than there is, touched", 1 << 45, Options{Prealloc: PreallocTouch}, ErrNoMemory, "MiB are available"},
		{"too few huge pages", (free + 10) * hugepages.Size, Options{Pages: HugeTLB, HugePageSize: hugepages.Size}, ErrNoHugePages, "nr_hugepages"},
		{"too few huge pages for a memfd", (free + 10) * hugepages.Size, Options{Backing: Memfd, Pages: HugeTLB, HugePageSize: hugepages.Size}, ErrNoHugePages, "nr_hugepages"},
		{"huge pages of a size that is none", 4096, Options{Pages: HugeTLB, HugePageSize: 3 << 20}, ErrNoHugePages, "power of two"},
		{"huge pages of a size that the system lacks", 4096, Options{Pages: HugeTLB, HugePageSize: 1 << 40}, ErrNoHugePages, "this system has none"},
		{"a node that does not exist", 4096, Options{NUMA: NUMABind, Nodes: []int{1000}}, ErrNUMA, "1000"},
		{"a node that cannot be", 4096, Options{NUMA: NUMABind, Nodes: []int{-1}}, ErrNUMA, "-1"},
		{"a policy without nodes", 4096, Options{NUMA: NUMAInterleave}, ErrNUMA, "without a node"},
		{"nodes without a policy", 4096, Options{Nodes: []int{0}}, ErrNUMA, "without a policy"},
		{"an unknown policy", 4096, Options{NUMA: "near", Nodes: []int{0}}, ErrNUMA, "near"},
		{"an unknown backing", 4096, Options{Backing: "paper"}, guest.ErrLayout, "paper"},
		{"an unknown kind of pages", 4096, Options{Pages: "large"}, guest.ErrLayout, "large"},
		{"an unknown way to preallocate", 4096, Options{Prealloc: "hope"}, guest.ErrLayout, "hope"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := NewWith(mustLayout(t, 4096, guest.Block{Name: "pc.ram", Length: tt.length}), tt.opts)
			if err == nil {
				m.Close()
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v; want an error that wraps %q and says %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestMemoryIsPlacedOnTheNodesNamed(t *testing.T) {
	for _, policy := range []NUMAPolicy{NUMAPrefer, NUMABind, NUMAInterleave} {
		m := mapped(t, Options{NUMA: policy, Nodes: []int{0}, Prealloc: PreallocPopulate}, 1<<20)
		mem := m.Bytes(m.Layout().Blocks[0])
		var mode uint32
		var mask [16]uint64
		const ofAddress = 2
		if _, _, errno := unix.Syscall6(unix.SYS_GET_MEMPOLICY, uintptr(unsafe.Pointer(&mode)), uintptr(unsafe.Pointer(&mask)), 1024, uintptr(unsafe.Pointer(&mem[0])), ofAddress, 0); errno != 0 {
			t.Fatal(errno)
		}
		want := map[NUMAPolicy]uint32{NUMAPrefer: unix.MPOL_PREFERRED, NUMABind: unix.MPOL_BIND, NUMAInterleave: unix.MPOL_INTERLEAVE}[policy]
		if mode != want || mask[0] != 1 {
			t.Errorf("%s: the kernel has policy %d for nodes %b", policy, mode, mask[0])
		}
	}
}

// A hole is what populate may silently leave.
func TestPagesThatArePromisedAndNotThereAreCounted(t *testing.T) {
	m := mapped(t, Options{Prealloc: PreallocPopulate}, 1<<20)
	mem := m.Bytes(m.Layout().Blocks[0])
	if n, err := absent(mem); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if err := unix.Madvise(mem[4096:4*4096], unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if n, err := absent(mem); n != 3 || err != nil {
		t.Errorf("%d pages are missing (%v), want 3", n, err)
	}
}

func TestTouchTurnsASignalIntoAnError(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	// Behind the end of the file there is no page to give.
	if err := touch(mem, 4096); !errors.Is(err, ErrNoMemory) {
		t.Errorf("touching pages that cannot be had: %v", err)
	}
}

func TestMissingCountsPagesThatNobodySpokeOf(t *testing.T) {
	m := mapped(t, Options{}, 100*4096)
	b := m.Layout().Blocks[0]
	in := lane(t, m)
	if n := m.Missing(b); n != 100 {
		t.Fatalf("%d pages are missing at first", n)
	}
	put(t, in, b, 5*4096, 1)
	if err := in.Zero(b, []uint64{5 * 4096, 6 * 4096, 99 * 4096}); err != nil {
		t.Fatal(err)
	}
	if n := m.Missing(b); n != 97 {
		t.Errorf("%d pages are missing, want 97", n)
	}
}

func TestBitmapSetsRangesAcrossWords(t *testing.T) {
	l := mustLayout(t, 4096, guest.Block{Name: "a", Length: 200 * 4096})
	for _, r := range [][2]uint64{{0, 0}, {0, 1}, {63, 65}, {0, 200}, {64, 128}, {5, 199}} {
		b := guest.NewBitmap(l)
		b.SetRange(0, r[0], r[1])
		if b.Count() != r[1]-r[0] {
			t.Errorf("%v: %d bits", r, b.Count())
		}
		for page := range uint64(200) {
			if got, want := b[0][page/64]&(1<<(page%64)) != 0, page >= r[0] && page < r[1]; got != want {
				t.Errorf("%v: page %d is %v", r, page, got)
			}
		}
		b.Clear()
		if b.Count() != 0 {
			t.Error("bits are left")
		}
	}
}

func TestControlGroupsBoundWhatIsAvailable(t *testing.T) {
	if n := availableMemory(); n == 0 || n == math.MaxUint64 {
		t.Errorf("%d bytes are available", n)
	}
}
