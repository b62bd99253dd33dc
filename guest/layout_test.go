package guest

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mustLayout(t testing.TB, pageSize int, blocks ...Block) *Layout {
	t.Helper()
	l, err := NewLayout(pageSize, blocks)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNewLayout_RefusesInvalidBlocks(t *testing.T) {
	many := make([]Block, MaxBlocks+1)
	for i := range many {
		many[i] = Block{Name: strings.Repeat("b", 1+i%200) + string(rune('A'+i/200)), Length: 4096}
	}
	tests := []struct {
		name     string
		pageSize int
		blocks   []Block
		want     string // in the error
	}{
		{"page size zero", 0, []Block{{Name: "a", Length: 4096}}, "page size 0"},
		{"page size below the smallest", MinPageSize / 2, []Block{{Name: "a", Length: 4096}}, "page size 512"},
		{"page size above the largest", 2 * MaxPageSize, []Block{{Name: "a", Length: 1 << 20}}, "page size 131072"},
		{"page size no power of two", 4096 + 1024, []Block{{Name: "a", Length: 4096}}, "page size 5120"},
		{"negative page size", -4096, []Block{{Name: "a", Length: 4096}}, "page size -4096"},
		{"no blocks", 4096, nil, "0 RAM blocks"},
		{"too many blocks", 4096, many, "4097 RAM blocks"},
		{"block without a name", 4096, []Block{{Length: 4096}}, "name of 0 bytes"},
		{"name too long for the wire", 4096, []Block{{Name: strings.Repeat("x", MaxNameLen+1), Length: 4096}}, "name of 256 bytes"},
		{"name twice", 4096, []Block{{Name: "a", Length: 4096}, {Name: "a", Length: 8192}}, `"a" is used twice`},
		{"empty block", 4096, []Block{{Name: "a"}}, "has 0 bytes"},
		{"half a page", 4096, []Block{{Name: "a", Length: 4096 + 2048}}, "has 6144 bytes"},
		{"one block too large", 4096, []Block{{Name: "a", Length: MaxMemory + 4096}}, "makes the machine larger than"},
		{"together too large", 4096, []Block{{Name: "a", Length: MaxMemory}, {Name: "b", Length: 4096}}, `"b" of 4096 bytes makes the machine larger than`},
		{"lengths that overflow together", 4096, []Block{{Name: "a", Length: 4096}, {Name: "b", Length: ^uint64(0) &^ 4095}}, "makes the machine larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := NewLayout(tt.pageSize, tt.blocks)
			if !errors.Is(err, ErrLayout) || l != nil {
				t.Fatalf("got %v, %v; want an error that wraps ErrLayout", l, err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want it to contain %q", err, tt.want)
			}
		})
	}
}

func TestNewLayout_CopiesBlocksInOrder(t *testing.T) {
	in := []Block{{Name: "pc.bios", Length: 4096, Index: 7}, {Name: "pc.ram", Length: 1 << 20, HugePage: 2 << 20}, {Name: strings.Repeat("x", MaxNameLen), Length: 8192}}
	l, err := NewLayout(4096, in)
	if err != nil {
		t.Fatal(err)
	}
	in[1].Name, in[1].Length = "changed", 0
	var got []Block
	for _, b := range l.Blocks {
		got = append(got, *b)
	}
	want := []Block{
		{Name: "pc.bios", Length: 4096, Index: 0},
		{Name: "pc.ram", Length: 1 << 20, HugePage: 2 << 20, Index: 1},
		{Name: strings.Repeat("x", MaxNameLen), Length: 8192, Index: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	ram := l.Block("pc.ram")
	if ram != l.Blocks[1] || l.Lookup([]byte("pc.ram")) != ram {
		t.Error("Block or Lookup does not find pc.ram")
	}
	if l.Block("pc.rom") != nil || l.Lookup(nil) != nil || l.Lookup([]byte("changed")) != nil {
		t.Error("Block or Lookup finds a name that no block has")
	}
	if l.Largest() != ram {
		t.Errorf("the largest block is %q", l.Largest().Name)
	}
	if got, want := l.Size(), uint64(4096+1<<20+8192); got != want {
		t.Errorf("size %d, want %d", got, want)
	}
	if got := l.Pages(ram); got != 256 {
		t.Errorf("pc.ram has %d pages, want 256", got)
	}
}

func TestLayout_LookupDoesNotAllocate(t *testing.T) {
	l := mustLayout(t, 4096, Block{Name: "pc.ram", Length: 4096})
	name := []byte("pc.ram")
	if n := testing.AllocsPerRun(100, func() { l.Lookup(name) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestLayout_CheckOffsetAcceptsPageStartsInTheBlock(t *testing.T) {
	l := mustLayout(t, 4096, Block{Name: "a", Length: 3 * 4096}, Block{Name: "b", Length: 4096})
	for _, tt := range []struct {
		block  string
		offset uint64
		want   string // "" for no error
	}{
		{"a", 0, ""},
		{"a", 2 * 4096, ""},
		{"a", 1, "not a multiple"},
		{"a", 2*4096 + 4095, "not a multiple"},
		{"a", 3 * 4096, "beyond"},
		{"b", 4096, "beyond"},
		{"b", ^uint64(0) &^ 4095, "beyond"},
		{"b", ^uint64(0), "not a multiple"},
	} {
		err := l.CheckOffset(l.Block(tt.block), tt.offset)
		if tt.want == "" {
			if err != nil {
				t.Errorf("offset %#x of %q: %v", tt.offset, tt.block, err)
			}
			continue
		}
		if !errors.Is(err, ErrLayout) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("offset %#x of %q: got %v, want an ErrLayout with %q", tt.offset, tt.block, err, tt.want)
		}
	}
}

func TestLayout_PacketPagesHoldHalfAMiB(t *testing.T) {
	for pageSize, want := range map[int]int{1 << 10: 512, 4 << 10: 128, 16 << 10: 32, 64 << 10: 8} {
		l := mustLayout(t, pageSize, Block{Name: "a", Length: 1 << 20})
		if got := l.PacketPages(); got != want {
			t.Errorf("%d pages of %d bytes, want %d", got, pageSize, want)
		}
	}
}

func TestBatch_ResetKeepsBuffers(t *testing.T) {
	b := Batch{Block: new(Block), Form: Deflated, Normal: make([]uint64, 3, 8), Zero: make([]uint64, 2, 4), Data: make([][]byte, 3, 8), TakeDeflated: true, Scratch: 1}
	b.Reset()
	if b.Block != nil || b.Form != Raw || len(b.Normal)+len(b.Zero)+len(b.Data) != 0 {
		t.Errorf("%+v is not empty", b)
	}
	if cap(b.Normal) != 8 || cap(b.Zero) != 4 || cap(b.Data) != 8 || b.Scratch == nil || !b.TakeDeflated {
		t.Errorf("%+v, want the capacities and the settings kept", b)
	}
}
