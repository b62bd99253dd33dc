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
			t.Skipf("reserving huge pages needs root: %v", err)
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

// faultsOf returns the number of minor page faults of do in its own thread. It does
// not count faults of the garbage collector and of other tests.
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

func TestNewWith_EveryKindIsZeroedAndPreallocated(t *testing.T) {
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
						t.Errorf("%d page faults in %d pages that were not preallocated: this test cannot count page faults", got, length/4096)
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

func TestMemory_MemfdIsSharedAndSealed(t *testing.T) {
	m := mapped(t, Options{Backing: Memfd}, 1<<20)
	b := m.Layout().Blocks[0]
	other, err := unix.Mmap(int(m.File(b).Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(other)
	copy(other[4096:], "from elsewhere")
	if !bytes.HasPrefix(m.Bytes(b)[4096:], []byte("from elsewhere")) {
		t.Error("a write through the other mapping is missing")
	}
	if err := m.File(b).Truncate(0); err == nil {
		t.Error("the file was shrunk under the memory")
	}
	if anonymous := mapped(t, Options{}, 1<<20); anonymous.File(anonymous.Layout().Blocks[0]) != nil {
		t.Error("anonymous memory has a file")
	}
}

func TestNewWith_TransparentHugePagesFaultWhole(t *testing.T) {
	if !Available(Options{Pages: TransparentHuge}) || Available(Options{Pages: HugeTLB, HugePageSize: 3 << 20}) {
		t.Error("Available and mapping disagree")
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

func TestNewWith_FailureIsATypedError(t *testing.T) {
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
		{"huge pages of a size that the system lacks", 4096, Options{Pages: HugeTLB, HugePageSize: 1 << 40}, ErrNoHugePages, "this system has no pages"},
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
				t.Errorf("%v; want an error that wraps %q and contains %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestNewWith_SetsTheNUMAPolicy(t *testing.T) {
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

// populate may leave absent pages without an error.
func TestPreallocate_AbsentPagesAreCounted(t *testing.T) {
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

func TestTouch_SignalIsAnError(t *testing.T) {
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
	// The kernel has no page beyond the end of the file.
	if err := touch(mem, 4096); !errors.Is(err, ErrNoMemory) {
		t.Errorf("touching pages beyond the file: %v", err)
	}
}

func TestMemory_MissingCountsUnnamedPages(t *testing.T) {
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

func TestBitmap_SetRangeAcrossWords(t *testing.T) {
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

func TestAvailableMemory_IsBoundByControlGroups(t *testing.T) {
	if n := availableMemory(); n == 0 || n == math.MaxUint64 {
		t.Errorf("%d bytes are available", n)
	}
}
