package qemutest

import (
	"fmt"
	"strings"
)

// linePrefix begins every line of the workload.
const linePrefix = "vmferry-guest: "

// Progress is the content of the guest's last complete count line. The zero value means that
// the guest has not printed one yet; the guest counts from 1.
type Progress struct {
	Count  int // grows by one about every 100 ms of guest time
	Pages  int // number of pages rewritten so far
	Rounds int // number of times that the guest has checked all its pages
}

// console is the state of a guest, by its serial output.
type console struct {
	ready    bool
	progress Progress
	faults   []string // lines that report an error in the guest
}

// parseConsole parses all output so far. It ignores an incomplete last line.
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

// isFault reports whether a line is an error of the workload or of its kernel.
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
