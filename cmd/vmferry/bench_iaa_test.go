package main

import (
	"bufio"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestBenchIAA_InterruptEndsInOneLine interrupts the command when it shows its first
// progress. A command that ended before the signal arrived is started again.
func TestBenchIAA_InterruptEndsInOneLine(t *testing.T) {
	for range 20 {
		cmd := exec.Command("vmferry", "bench", "iaa", "--json")
		var stdout strings.Builder
		cmd.Stdout = &stdout
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var after []string // lines after the interrupt
		shown := false
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			switch line := lines.Text(); {
			case strings.HasPrefix(line, "row "):
				if !shown {
					cmd.Process.Signal(syscall.SIGINT)
				}
				shown = true
			case shown:
				after = append(after, line)
			}
		}
		err = cmd.Wait()
		if !shown {
			t.Fatalf("no progress before the end: %v", err)
		}
		if err == nil {
			continue
		}
		var exited *exec.ExitError
		if !errors.As(err, &exited) || exited.ExitCode() < 1 {
			t.Errorf("the command ended with %v, want an exit status", err)
		}
		if len(after) != 1 || !strings.Contains(after[0], "interrupt") {
			t.Errorf("standard error after the interrupt: %q, want one line", after)
		}
		if strings.Contains(stdout.String(), "row ") || strings.Contains(stdout.String(), "progress") {
			t.Errorf("standard output: %q", &stdout)
		}
		return
	}
	t.Error("the command always ended before the signal")
}
