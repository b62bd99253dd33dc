//go:build realqemu

package dirty

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
)

// The tests of the mode Sync on a kernel (6.1, Debian 12's) that has no
// PAGEMAP_SCAN, and that protects pages only where there are some.
func TestRealQEMUGuestsOldKernelFallsBackToSync(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	program := qemutest.Program{Name: "dirty.test", Package: ".", Tests: true}
	out, err := qemutest.RunInGuest(ctx, qemutest.Config{MemoryMiB: 512}, program, `
uname -r
set -e
dirty.test -test.v -test.run '^(TestProbe|TestAutoIs|TestTargetPages|TestCollectLeaves|TestMisuse)'
dirty.test -test.v -test.run '^(TestEvery|TestWritesBy|TestNoWrite|TestALogThat)/^sync$/^(anonymous|memfd|populated)$'
`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"async: ", "lacks features", "sync: <nil>", "the mode is sync",
		"--- PASS: TestNoWriteIsMissedUnderLoad", "--- PASS: TestEveryWrittenPageIsFoundOnceAndNoOther/sync/anonymous", "--- PASS: TestTargetPagesOfAnySize",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the guest does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}
