package storetest

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"github.com/vmferry/vmferry/store"
)

func TestBucket_Memory(t *testing.T) {
	TestBucket(t, func() store.Bucket { return NewBucket() })
}

func TestBucket_Dir(t *testing.T) {
	TestBucket(t, func() store.Bucket {
		d, err := store.CreateDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	})
}

func TestFillAfter_TruncatesTheWriteThatDoesNotFit(t *testing.T) {
	b := NewBucket()
	b.FillAfter(10)
	w, err := b.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{6, 4, 0} {
		n, err := w.Write(t.Context(), make([]byte, 6))
		if n != want || (err != nil) != (n < 6) || err != nil && !errors.Is(err, ErrNoSpace) {
			t.Errorf("%d bytes, %v; want %d", n, err, want)
		}
	}
	if b.Written() != 10 {
		t.Errorf("%d bytes written, want 10", b.Written())
	}
}

func TestFail_EveryOperation(t *testing.T) {
	boom := errors.New("boom")
	ops := map[Op]func(*Bucket) error{
		Create: func(b *Bucket) error { _, err := b.Create(t.Context(), "new"); return err },
		Write: func(b *Bucket) error {
			w, _ := b.Create(t.Context(), "new")
			_, err := w.Write(t.Context(), []byte{1})
			return err
		},
		Seal:   func(b *Bucket) error { w, _ := b.Create(t.Context(), "new"); return w.Seal(t.Context()) },
		Abort:  func(b *Bucket) error { w, _ := b.Create(t.Context(), "new"); return w.Abort(t.Context()) },
		Commit: func(b *Bucket) error { w, _ := b.Create(t.Context(), "new"); return w.Commit(t.Context()) },
		Open:   func(b *Bucket) error { _, err := b.Open(t.Context(), "old"); return err },
		Read:   func(b *Bucket) error { _, err := ReadAll(t.Context(), b, "old"); return err },
		Remove: func(b *Bucket) error { return b.Remove(t.Context(), "old") },
		List:   func(b *Bucket) error { _, err := b.List(t.Context()); return err },
	}
	for op, do := range ops {
		for _, fail := range []bool{false, true} {
			b := NewBucket()
			b.Put("old", []byte("x"))
			if fail {
				b.Fail(op, "", boom)
			}
			if err := do(b); errors.Is(err, boom) != fail {
				t.Errorf("%s, failing %v: %v", op, fail, err)
			}
		}
	}
}

func TestCommit_FailureRemovesTheObject(t *testing.T) {
	b := NewBucket()
	b.Fail(Commit, "o", errors.New("boom"))
	w, err := b.Create(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err == nil {
		t.Fatal("the commit did not fail")
	}
	if _, err := b.Open(t.Context(), "o"); !errors.Is(err, fs.ErrNotExist) || b.Begun() != 0 {
		t.Errorf("%v, %d begun", err, b.Begun())
	}
}

func TestClone_DamageAffectsOneBucket(t *testing.T) {
	b := NewBucket()
	b.Put("o", []byte{0, 0xff, 1})
	c := b.Clone()
	c.FlipBit("o", 9)
	c.Extend("o", []byte{7, 8})
	c.Truncate("o", 4)
	if got, want := c.Bytes("o"), []byte{0, 0xfd, 1, 7}; !bytes.Equal(got, want) {
		t.Errorf("damaged: %x, want %x", got, want)
	}
	if got, want := b.Bytes("o"), []byte{0, 0xff, 1}; !bytes.Equal(got, want) {
		t.Errorf("the original: %x, want %x", got, want)
	}
}

func TestBucket_CountsReadsAndOpenObjects(t *testing.T) {
	b := NewBucket()
	b.Put("o", make([]byte, 100))
	o, err := b.Open(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if b.OpenObjects() != 1 {
		t.Errorf("%d objects open, want 1", b.OpenObjects())
	}
	o.ReadAt(t.Context(), make([]byte, 30), 10)
	o.ReadAt(t.Context(), make([]byte, 30), 90)
	if got := b.BytesRead("o"); got != 40 {
		t.Errorf("%d bytes read, want 40", got)
	}
	if err := o.Close(); err != nil || b.OpenObjects() != 0 {
		t.Errorf("%v, %d objects open", err, b.OpenObjects())
	}
	if err := o.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closing twice: %v", err)
	}
}
