package qemutest

import (
	"fmt"
	"strings"
)

// linePrefix begins every line of the workload.
const linePrefix = "vmferry-guest: "

// Progress is what the guest's last complete count line says. The zero value
// means that there is none yet; the guest counts from 1.
type Progress struct {
	Count  int // grows by one about every 100 ms of guest time
	Pages  int // pages rewritten so far
	Rounds int // how often the guest has checked all its pages
}

// console is what can be read off a guest's serial output.
type console struct {
	ready    bool
	progress Progress
	faults   []string // lines that say that the guest is not well
}

// parseConsole reads all output so far. The last line counts only once it is
// complete.
func parseConsole(output string) console {
	var c console
	for line := range strings.Lines(output) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		line = strings.TrimSpace(line)
		if isFault(line) {
			c.faults = append(c.faults, line)
		}
		_, text, ok := strings.Cut(line, linePrefix)
		if !ok {
			continue
		}
		var p Progress
		if n, _ := fmt.Sscanf(text, "count=%d pages=%d rounds=%d", &p.Count, &p.Pages, &p.Rounds); n == 3 {
			c.progress = p
			c.ready = true
		}
		if strings.HasPrefix(text, "ready") {
			c.ready = true
		}
	}
	return c
}

// isFault tells whether a line is a complaint of the workload or of the
// kernel under it.
func isFault(line string) bool {
	for _, sign := range []string{
		linePrefix + "CORRUPT", linePrefix + "FAILED", linePrefix + "EXITED",
		"Kernel panic", "BUG: ", "Oops: ", "general protection fault", "segfault at",
	} {
		if strings.Contains(line, sign) {
			return true
		}
	}
	return false
}
