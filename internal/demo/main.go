// Demo boots a Linux guest in QEMU, saves it with vmferry while it runs, restores it into a
// second QEMU, and shows that the guest continues to count. "make demo" runs it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
)

func main() {
	vmferry := flag.String("vmferry", "bin/vmferry", "program to show")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	ctx, cancelTime := context.WithTimeout(ctx, 110*time.Second)
	defer cancelTime()
	if err := run(ctx, *vmferry); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// row is a line of the table at the end.
type row struct{ what, value string }

func run(ctx context.Context, vmferry string) error {
	dir, err := os.MkdirTemp("", "vf-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	guest := qemutest.Config{Version: "10.0", MemoryMiB: 256, FillMiB: 64, WorkMiB: 16, RateMiBps: 8, Dir: dir}

	say("booting a Linux guest of 256 MiB that counts, and rewrites and checks its memory")
	first, err := qemutest.Launch(ctx, guest)
	if err != nil {
		return err
	}
	defer first.Close()
	if err := first.WaitReady(ctx); err != nil {
		return err
	}
	if err := first.WaitCount(ctx, 20); err != nil {
		return err
	}
	before, _ := first.Count()

	say("vmferry save --qmp %s snapshot, while the guest works (its count is %d)", first.QMPPath(), before)
	snapshot := filepath.Join(dir, "snapshot")
	save, err := result(ctx, vmferry, "save", "--json", "--qmp", first.QMPPath(), snapshot)
	if err != nil {
		return err
	}
	atSave, _ := first.Count()
	if err := checkRuns(ctx, first); err != nil {
		return fmt.Errorf("the first guest after the save: %w", err)
	}
	after, _ := first.Count()
	say("the first guest goes on: %d -> %d; vmferry verify snapshot", atSave, after)
	verified, err := result(ctx, vmferry, "verify", "--json", snapshot)
	if err != nil {
		return err
	}
	first.Kill()

	say("the first QEMU is killed; a second one waits; vmferry restore --qmp ... snapshot")
	guest.Incoming = true
	second, err := qemutest.Launch(ctx, guest)
	if err != nil {
		return err
	}
	defer second.Close()
	restore, err := result(ctx, vmferry, "restore", "--json", "--qmp", second.QMPPath(), snapshot)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, second.Stderr())
	}
	if err := checkRuns(ctx, second); err != nil {
		return fmt.Errorf("the second guest: %w", err)
	}
	restored, _ := second.Count()
	if restored < before {
		return fmt.Errorf("the second guest counts %d, the first was at %d when it was saved: it booted anew", restored, before)
	}
	say("waiting until the second guest has checked every page of its memory")
	if err := second.WaitVerified(ctx); err != nil {
		return err
	}
	last, _ := second.Count()
	table(
		row{"guest memory", "256 MiB"},
		row{"pages kept", fmt.Sprintf("%.0f, and %.0f that are zero", save["pages"], save["zero_pages"])},
		row{"snapshot on disk", fmt.Sprintf("%.1f MiB", number(save, "snapshot_bytes")/(1<<20))},
		row{"save took", fmt.Sprintf("%.2f s, %.0f rounds", number(save, "total_ns")/1e9, save["rounds"])},
		row{"the guest stood still", fmt.Sprintf("%.0f ms", number(save, "paused_ns")/1e6)},
		row{"verified", fmt.Sprintf("%.0f objects, %.0f pages", verified["objects"], verified["pages"])},
		row{"restore took", fmt.Sprintf("%.2f s", number(restore, "total_ns")/1e9)},
		row{"count before the save", fmt.Sprint(before)},
		row{"first guest, after the save", fmt.Sprintf("%d -> %d", atSave, after)},
		row{"second guest, restored", fmt.Sprintf("%d -> %d, no page corrupt", restored, last)},
	)
	return nil
}

func number(m map[string]any, key string) float64 {
	n, _ := m[key].(float64)
	return n
}

// checkRuns checks that a guest continues to count and has no corrupt page.
func checkRuns(ctx context.Context, vm *qemutest.VM) error {
	return errors.Join(vm.WaitProgress(ctx, 15*time.Second), vm.Corrupt())
}

// result runs vmferry with --json and returns the result that it prints.
func result(ctx context.Context, name string, args ...string) (map[string]any, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, errs.Bytes())
	}
	for line := range bytes.Lines(out.Bytes()) {
		var v struct {
			Result map[string]any `json:"result"`
		}
		if err := json.Unmarshal(line, &v); err != nil {
			return nil, fmt.Errorf("%s %s printed %q: %w", name, args[0], line, err)
		}
		if v.Result != nil {
			return v.Result, nil
		}
	}
	return nil, fmt.Errorf("%s %s printed no result", name, args[0])
}

var began = time.Now()

func say(format string, args ...any) {
	fmt.Printf("%5.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

func table(rows ...row) {
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "  %s\t%s\n", r.what, r.value)
	}
	w.Flush()
}
