package storetest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/store"
)

func testSealed(t *testing.T, b store.Bucket) {
	want := pattern(300_000)
	for name, end := range map[string]func(store.Writer, context.Context) error{"committed": store.Writer.Commit, "aborted": store.Writer.Abort} {
		w, err := b.Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if o, err := w.Open(t.Context()); err == nil {
			o.Close()
			t.Error("Open before Seal succeeded")
		}
		if err := w.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(t.Context(), want); err == nil {
			t.Error("Write after Seal succeeded")
		}
		if err := w.Seal(t.Context()); err == nil {
			t.Error("a second Seal succeeded")
		}
		for range 2 { // opened again, it is the same object
			o, err := w.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 1000)
			if err := store.ReadFull(t.Context(), o, got, 200_001); err != nil || !bytes.Equal(got, want[200_001:201_001]) || o.Size() != int64(len(want)) {
				t.Errorf("1000 of %d bytes: equal %v, %v", o.Size(), bytes.Equal(got, want[200_001:201_001]), err)
			}
			if err := o.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := end(w, t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if o, err := w.Open(t.Context()); err == nil {
			o.Close()
			t.Errorf("Open of a writer whose object is %s succeeded", name)
		}
	}
	if got, err := ReadAll(t.Context(), b, "committed"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after the commit: %d bytes, %v", len(got), err)
	}
	if names, err := b.List(t.Context()); err != nil || !slices.Equal(names, []string{"committed"}) {
		t.Errorf("List: %q, %v", names, err)
	}
}

func testSealedIsInvisible(t *testing.T, b store.Bucket) {
	w, err := b.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(t.Context(), "o"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open: %v", err)
	}
	if _, err := b.Create(t.Context(), "o"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create again: %v", err)
	}
	if err := b.Remove(t.Context(), "o"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove: %v", err)
	}
	if names, err := b.List(t.Context()); err != nil || len(names) != 1 {
		t.Errorf("List: %q, %v; want one name for the begun object", names, err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Error(err)
	}
}

func testEndedContext(t *testing.T, b store.Bucket) {
	write(t, b, "o", []byte("x"))
	cause := errors.New("interrupted by the user")
	over, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	w, err := b.Create(t.Context(), "begun")
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.Open(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	calls := map[string]func() error{
		"Create": func() error { _, err := b.Create(over, "new"); return err },
		"Open":   func() error { _, err := b.Open(over, "o"); return err },
		"Remove": func() error { return b.Remove(over, "o") },
		"List":   func() error { _, err := b.List(over); return err },
		"Write":  func() error { _, err := w.Write(over, []byte("x")); return err },
		"ReadAt": func() error { _, err := o.ReadAt(over, make([]byte, 1), 0); return err },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.Commit(over); !errors.Is(err, cause) {
		t.Errorf("Commit: %v", err)
	}
	if names, err := b.List(t.Context()); err != nil || !slices.Equal(names, []string{"o"}) {
		t.Errorf("List: %q, %v", names, err)
	}
}
