package qemutest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrCorrupt is wrapped by errors about a guest that found a changed page, or whose kernel
// or workload failed.
var ErrCorrupt = errors.New("the guest is corrupt")

const pollInterval = 20 * time.Millisecond

// Progress returns the content of the guest's last count line, and the time of that line.
func (vm *VM) Progress() (Progress, time.Time) {
	p := parseConsole(vm.Serial()).progress
	if p == (Progress{}) {
		return p, time.Time{}
	}
	info, err := os.Stat(filepath.Join(vm.dir, serialName))
	if err != nil {
		return p, time.Time{}
	}
	return p, info.ModTime()
}

// Count returns the guest's last count, 0 if there is none yet, and its time.
func (vm *VM) Count() (int, time.Time) {
	p, at := vm.Progress()
	return p.Count, at
}

// Corrupt returns an error that wraps [ErrCorrupt] and quotes the guest if the guest has
// reported an error.
func (vm *VM) Corrupt() error {
	return parseConsole(vm.Serial()).corrupt()
}

func (c console) corrupt() error {
	if len(c.faults) == 0 {
		return nil
	}
	const most = 5
	text := strings.Join(c.faults[:min(len(c.faults), most)], "\n\t")
	if more := len(c.faults) - most; more > 0 {
		text += fmt.Sprintf("\n\tand %d more lines", more)
	}
	return fmt.Errorf("qemutest: %w:\n\t%s", ErrCorrupt, text)
}

// WaitReady waits until the guest has filled its memory and is about to count.
func (vm *VM) WaitReady(ctx context.Context) error {
	return vm.wait(ctx, "to be ready", func(c console) bool { return c.ready })
}

// WaitCount waits until the guest has counted to n.
func (vm *VM) WaitCount(ctx context.Context, n int) error {
	return vm.wait(ctx, fmt.Sprintf("to count to %d", n), func(c console) bool { return c.progress.Count >= n })
}

// WaitProgress waits until the guest's count grows. It fails after d.
func (vm *VM) WaitProgress(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	from, _ := vm.Count()
	return vm.wait(ctx, fmt.Sprintf("to count on from %d within %v", from, d), func(c console) bool { return c.progress.Count > from })
}

// WaitVerified waits until the guest has checked every page since the call.
func (vm *VM) WaitVerified(ctx context.Context) error {
	// The console of an incoming machine is empty until the machine runs.
	var first Progress
	err := vm.wait(ctx, "to count", func(c console) bool { first = c.progress; return first.Count > 0 })
	if err != nil {
		return err
	}
	// The current round began before the call, so only the next one is complete.
	return vm.wait(ctx, "to check all its memory", func(c console) bool { return c.progress.Rounds >= first.Rounds+2 })
}

// wait polls the console until done returns true, ctx ends, QEMU exits, or the guest reports
// corruption.
func (vm *VM) wait(ctx context.Context, what string, done func(console) bool) error {
	for {
		alive := vm.Alive() // before reading the console, so that the last output counts
		c := parseConsole(vm.Serial())
		switch err := c.corrupt(); {
		case err != nil:
			return err
		case done(c):
			return nil
		case !alive:
			return fmt.Errorf("wait for the guest %s: %w", what, vm.exitError())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("qemutest: wait for the guest %s: %w; its count is %d and its console ends in:\n%s",
				what, ctx.Err(), c.progress.Count, lastLines(vm.Serial(), 5))
		case <-vm.exited:
		case <-time.After(pollInterval):
		}
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return "\t" + strings.Join(lines[max(0, len(lines)-n):], "\n\t")
}
