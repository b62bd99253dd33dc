//go:build realqemu

package faults_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
)

// The guest's kernel (of Debian 12) has a shared zero page. So anonymous memory shows that
// a zero page that is written later costs two faults with scanning, and one with the
// received bitmap. Faults do not depend on the speed of the emulated processor.
func TestRealQEMUGuest_FaultsOncePerLateZeroPage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	program := qemutest.Program{Name: "vmferry", Package: "github.com/vmferry/vmferry/cmd/vmferry"}
	out, err := qemutest.RunInGuest(ctx, qemutest.Config{MemoryMiB: 512}, program,
		"vmferry bench faults --memory 16 --runs 1 --json\n")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	type cell struct {
		Bench, Memory, Policy, Path string
		Data                        float64 `json:"data_faults"`
		Zero                        float64 `json:"zero_faults"`
		Arrival                     float64 `json:"later_arrival_faults"`
		Write                       float64 `json:"later_write_faults"`
	}
	seen := map[string]bool{}
	for line := range strings.Lines(out) {
		var c cell
		if json.Unmarshal([]byte(line), &c) != nil || c.Bench != "memory" {
			continue
		}
		seen[c.Memory+", "+c.Policy] = true
		about := func(what string, got, want float64) {
			if got < want-20 || got > want+20 {
				t.Errorf("%s, %s, %s: %.0f faults per 1,000 pages %s, want %.0f", c.Memory, c.Path, c.Policy, got, what, want)
			}
		}
		switch {
		case c.Memory == "none" && c.Policy == "scan zeros":
			about("with data", c.Data, 1000)
			about("zero and never written", c.Zero, 1000)
			about("zero first, when they came", c.Arrival, 1000)
			about("zero first, when they were written", c.Write, 1000)
		case c.Memory == "none":
			about("with data", c.Data, 1000)
			about("zero and never written", c.Zero, 0)
			about("zero first, when they came", c.Arrival, 0)
			about("zero first, when they were written", c.Write, 1000)
		case c.Memory == "touch" || c.Memory == "populate":
			about("of any kind", c.Data+c.Zero+c.Arrival+c.Write, 0)
		}
	}
	for _, cell := range []string{"none, scan zeros", "none, received bitmap", "touch, received bitmap", "populate, scan zeros"} {
		if !seen[cell] {
			t.Errorf("no line for %s", cell)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}
