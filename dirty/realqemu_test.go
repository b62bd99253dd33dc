//go:build realqemu

package dirty

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
)

// The tests of the mode Sync run on a kernel (6.1 of Debian 12) that has no PAGEMAP_SCAN
// and protects no absent pages.
func TestRealQEMU_OldKernelFallsBackToSync(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	program := qemutest.Program{Name: "dirty.test", Package: ".", Tests: true}
	out, err := qemutest.RunInGuest(ctx, qemutest.Config{MemoryMiB: 512}, program, `
uname -r
set -e
dirty.test -test.v -test.run '^(TestProbe_|TestAuto_|TestLog_TargetPages|TestLog_CollectKeeps|TestLog_Misuse)'
dirty.test -test.v -test.run '^(TestLog_WrittenPage|TestLog_SystemCall|TestLog_NoWrite|TestLog_StartsAgain)/^sync$/^(anonymous|memfd|populated)$'
`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"async: ", "lacks features", "sync: <nil>", "the mode is sync",
		"--- PASS: TestLog_NoWriteIsMissedUnderLoad", "--- PASS: TestLog_WrittenPageIsCollectedOnce/sync/anonymous", "--- PASS: TestLog_TargetPagesOfAnySize",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output of the guest lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}
