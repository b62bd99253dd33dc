package snapshot

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/guest"
)

// TestManifest_LargestOfTheWriterCanBeRead has the most objects that the
// writer makes, and the most blocks with the longest names.
func TestManifest_LargestOfTheWriterCanBeRead(t *testing.T) {
	m := seedManifest()
	m.Objects, m.Totals.PageBytes = m.Objects[1:], 0
	digest := strings.Repeat("f", 64)
	for i := range maxNewPageObjects {
		m.Objects = append(m.Objects, ObjectInfo{Name: fmt.Sprintf("pages-%09d", i), Role: RolePages, Size: 1<<30 + int64(i) + partsLen(1e6), Parts: 1e6, BLAKE3: digest})
		m.Totals.PageBytes += 1<<30 + int64(i)
	}
	m.Blocks[0].Length, m.Totals.Zero = 4096*3, 4096*3/4096-m.Totals.Pages
	for i := 1; i < guest.MaxBlocks; i++ {
		name := fmt.Sprintf("%04d", i) + strings.Repeat("\x01", guest.MaxNameLen-4)
		m.Blocks = append(m.Blocks, BlockInfo{Name: name, Length: 1 << 32, HugePage: 1 << 30, Pages: 1 << 20})
		m.Totals.Pages, m.Totals.Extents = m.Totals.Pages+(1<<20), m.Totals.Extents+(1<<14)
	}
	text, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeManifest(text); err != nil {
		t.Errorf("%d bytes: %v", len(text), err)
	}
}

func TestWriter_BoundsTheNumberOfObjects(t *testing.T) {
	w := &Writer{objects: make([]*pageObject, maxNewPageObjects), opts: Options{ObjectSize: defaultObjectSize}}
	if _, err := w.newObject(t.Context()); err == nil || !strings.Contains(err.Error(), "16384 objects") {
		t.Errorf("got %v", err)
	}
}

func TestObjectSize_GrowsWithTheSnapshot(t *testing.T) {
	if n := objectSize(defaultObjectSize, 0); n != 64<<20 {
		t.Errorf("the first object gets %d bytes", n)
	}
	var sum int64
	n := 0
	for ; sum < 100<<40; n++ {
		size := objectSize(defaultObjectSize, n)
		if size < 64<<20 || size > 64<<30 {
			t.Fatalf("object %d gets %d bytes", n, size)
		}
		sum += size
	}
	if n > 8000 {
		t.Errorf("100 TiB take %d objects", n)
	}
}
