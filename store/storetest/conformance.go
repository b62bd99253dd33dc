package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vmferry/vmferry/store"
)

// TestBucket checks that a bucket follows the contract of [store.Bucket]. empty returns
// a new, empty bucket at each call.
func TestBucket(t *testing.T, empty func() store.Bucket) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, store.Bucket)
	}{
		{"a new bucket is empty", testEmpty},
		{"a committed object reads as it was written", testReadsAsWritten},
		{"any range of an object can be read", testRanges},
		{"an object is invisible before it is committed", testInvisible},
		{"an aborted object leaves nothing", testAbort},
		{"an object is never overwritten", testNoOverwrite},
		{"a second Commit or Abort fails and changes no object", testEndedOnce},
		{"an uncommitted object cannot be removed", testRemoveBegun},
		{"a sealed object reads as it was written before it is committed", testSealed},
		{"a sealed object is invisible before it is committed", testSealedIsInvisible},
		{"a removed object does not exist", testRemove},
		{"a missing object is fs.ErrNotExist", testMissing},
		{"names with a separator or a leading dot are refused", testNames},
		{"several goroutines write and read objects", testConcurrent},
		{"a call whose context has ended returns the cause", testEndedContext},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, empty()) })
	}
}

func write(t *testing.T, b store.Bucket, name string, data []byte) {
	t.Helper()
	w, err := b.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(t.Context(), data); n != len(data) || err != nil {
		t.Fatalf("writing %s: %d of %d bytes, %v", name, n, len(data), err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func pattern(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i*i + i>>8)
	}
	return data
}

func testEmpty(t *testing.T, b store.Bucket) {
	if names, err := b.List(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("List: %q, %v", names, err)
	}
	if b.String() == "" {
		t.Error("String is empty")
	}
}

func testReadsAsWritten(t *testing.T, b store.Bucket) {
	want := pattern(300_000)
	w, err := b.Create(t.Context(), "pages-000000")
	if err != nil {
		t.Fatal(err)
	}
	for rest := want; len(rest) > 0; {
		n := min(70_001, len(rest))
		if _, err := w.Write(t.Context(), rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, b, "empty", nil)
	for name, want := range map[string][]byte{"pages-000000": want, "empty": {}} {
		if got, err := ReadAll(t.Context(), b, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, equal %v, %v", name, len(got), len(want), bytes.Equal(got, want), err)
		}
	}
	names, err := b.List(t.Context())
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"empty", "pages-000000"}) {
		t.Errorf("List: %q, %v", names, err)
	}
}

func testRanges(t *testing.T, b store.Bucket) {
	want := pattern(10_000)
	write(t, b, "o", want)
	o, err := b.Open(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if o.Size() != 10_000 {
		t.Errorf("size %d", o.Size())
	}
	for _, r := range [][2]int{{0, 10_000}, {0, 1}, {9_999, 1}, {5_000, 2_500}} {
		got := make([]byte, r[1])
		if n, err := o.ReadAt(t.Context(), got, int64(r[0])); n != r[1] || err != nil && err != io.EOF || !bytes.Equal(got, want[r[0]:r[0]+r[1]]) {
			t.Errorf("%d bytes at %d: %d bytes, %v", r[1], r[0], n, err)
		}
	}
	if n, err := o.ReadAt(t.Context(), make([]byte, 10), 9_995); n != 5 || err != io.EOF {
		t.Errorf("across the end: %d bytes, %v; want 5 and io.EOF", n, err)
	}
	if n, err := o.ReadAt(t.Context(), make([]byte, 10), 20_000); n != 0 || err != io.EOF {
		t.Errorf("beyond the end: %d bytes, %v; want 0 and io.EOF", n, err)
	}
}

func testInvisible(t *testing.T, b store.Bucket) {
	w, err := b.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(t.Context(), []byte("half")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(t.Context(), "o"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open: %v", err)
	}
	if names, err := b.List(t.Context()); err != nil || len(names) != 1 {
		t.Errorf("List: %q, %v; want one name for the begun object", names, err)
	}
	if _, err := b.Create(t.Context(), "o"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create again: %v", err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadAll(t.Context(), b, "o"); err != nil || string(got) != "half" {
		t.Errorf("after the commit: %q, %v", got, err)
	}
}

func testAbort(t *testing.T, b store.Bucket) {
	w, err := b.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(t.Context(), []byte("gone")); err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names, err := b.List(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("List: %q, %v", names, err)
	}
	write(t, b, "o", []byte("again"))
	if got, err := ReadAll(t.Context(), b, "o"); err != nil || string(got) != "again" {
		t.Errorf("written again: %q, %v", got, err)
	}
}

func testNoOverwrite(t *testing.T, b store.Bucket) {
	write(t, b, "o", []byte("first"))
	if _, err := b.Create(t.Context(), "o"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create again: %v", err)
	}
	if got, err := ReadAll(t.Context(), b, "o"); err != nil || string(got) != "first" {
		t.Errorf("the object is %q (%v)", got, err)
	}
}

func testEndedOnce(t *testing.T, b store.Bucket) {
	for name, end := range map[string]func(store.Writer, context.Context) error{"committed": store.Writer.Commit, "aborted": store.Writer.Abort} {
		w, err := b.Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if err := end(w, t.Context()); err != nil {
			t.Fatal(err)
		}
		want := ""
		if name == "aborted" {
			want = "of another writer"
			write(t, b, name, []byte(want))
		}
		if err := w.Abort(t.Context()); err == nil {
			t.Errorf("Abort of an object that was %s succeeded", name)
		}
		if err := w.Commit(t.Context()); err == nil {
			t.Errorf("Commit of an object that was %s succeeded", name)
		}
		if got, err := ReadAll(t.Context(), b, name); err != nil || string(got) != want {
			t.Errorf("the object of the name %s: %q, %v", name, got, err)
		}
	}
}

func testRemoveBegun(t *testing.T, b store.Bucket) {
	w, err := b.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(t.Context(), []byte("whole")); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(t.Context(), "o"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove: %v", err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadAll(t.Context(), b, "o"); err != nil || string(got) != "whole" {
		t.Errorf("after the commit: %q, %v", got, err)
	}
}

func testRemove(t *testing.T, b store.Bucket) {
	write(t, b, "o", []byte("x"))
	write(t, b, "p", []byte("y"))
	if err := b.Remove(t.Context(), "o"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(t.Context(), "o"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open: %v", err)
	}
	if names, err := b.List(t.Context()); err != nil || !slices.Equal(names, []string{"p"}) {
		t.Errorf("List: %q, %v", names, err)
	}
}

func testMissing(t *testing.T, b store.Bucket) {
	if _, err := b.Open(t.Context(), "o"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open: %v", err)
	}
	if err := b.Remove(t.Context(), "o"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove: %v", err)
	}
}

func testNames(t *testing.T, b store.Bucket) {
	write(t, b, "o", []byte("x"))
	for _, name := range []string{"", ".", "..", "../o", "a/b", "/o", ".hidden", "nul\x00", strings.Repeat("x", 129)} {
		if _, err := b.Create(t.Context(), name); err == nil {
			t.Errorf("Create(%q) succeeded", name)
		}
		if _, err := b.Open(t.Context(), name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q): %v", name, err)
		}
		if err := b.Remove(t.Context(), name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Remove(%q): %v", name, err)
		}
	}
	if names, err := b.List(t.Context()); err != nil || !slices.Equal(names, []string{"o"}) {
		t.Errorf("List: %q, %v", names, err)
	}
}

func testConcurrent(t *testing.T, b store.Bucket) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name, data := fmt.Sprintf("o-%d", i), pattern(10_000+i)
			w, err := b.Create(t.Context(), name)
			if err != nil {
				t.Error(err)
				return
			}
			for _, half := range [][]byte{data[:5000], data[5000:]} {
				if _, err := w.Write(t.Context(), half); err != nil {
					t.Error(err)
				}
			}
			if err := w.Commit(t.Context()); err != nil {
				t.Error(err)
				return
			}
			var readers sync.WaitGroup
			for range 2 {
				readers.Go(func() {
					if got, err := ReadAll(t.Context(), b, name); err != nil || !bytes.Equal(got, data) {
						t.Errorf("%s: %d bytes, %v", name, len(got), err)
					}
				})
			}
			readers.Wait()
		})
	}
	wg.Wait()
	if names, err := b.List(t.Context()); err != nil || len(names) != 8 {
		t.Errorf("List: %q, %v", names, err)
	}
}
