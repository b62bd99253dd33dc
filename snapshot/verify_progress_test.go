package snapshot_test

import (
	"slices"
	"testing"

	"github.com/vmferry/vmferry/snapshot"
)

func TestVerify_ProgressEndsAtTheSnapshotsSize(t *testing.T) {
	b, _ := small(t, snapshot.StoreFast, 1024)
	r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var seen []int64
	v, err := r.Verify(t.Context(), func(bytes int64) { seen = append(seen, bytes) })
	if err != nil {
		t.Fatal(err)
	}
	total := r.Manifest().Bytes()
	if v.Bytes != total || !slices.IsSorted(seen) || len(seen) == 0 || seen[len(seen)-1] != total {
		t.Errorf("progress is %d of a snapshot of %d bytes", seen, total)
	}
}
