//go:build realqemu

package qemutest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// within returns a context with a timeout that is much longer than the wait of a working
// machine.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, path string) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(t.Context(), path)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRealQEMU_MachineRuns(t *testing.T) {
	for _, version := range Versions() {
		t.Run(version, func(t *testing.T) {
			memory := filepath.Join(t.TempDir(), "memory")
			vm := Start(t, Config{Version: version, MemFile: memory, FillMiB: 8, WorkMiB: 4, RateMiBps: 4})
			must(t, vm.WaitReady(within(t, 2*time.Minute)))
			must(t, vm.WaitCount(within(t, time.Minute), 10))
			must(t, vm.WaitProgress(t.Context(), 30*time.Second))
			must(t, vm.WaitVerified(within(t, 2*time.Minute)))
			if p, at := vm.Progress(); p.Pages == 0 || time.Since(at) > time.Minute {
				t.Errorf("progress %+v at %v", p, at)
			}

			c := connect(t, vm.QMPPath())
			if !strings.HasPrefix(c.Version().String(), version+".") {
				t.Errorf("this is QEMU %s", c.Version())
			}
			second := connect(t, vm.QMPPath2())
			must(t, c.Stop(t.Context()))
			state, err := second.QueryStatus(t.Context())
			if err != nil || state.Status != qmp.StatePaused {
				t.Errorf("state after stop: %+v, %v", state, err)
			}
			if err := vm.WaitProgress(t.Context(), time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("WaitProgress of a paused machine: %v, want a timeout", err)
			}
			// The guest's pages are in the file: page 1 of the fill is text.
			content, err := os.ReadFile(memory)
			if err != nil || int64(len(content)) != vm.Config().MemoryBytes || !bytes.Contains(content, []byte("guest memory")) {
				t.Errorf("%d bytes of memory in the file, or not the guest's: %v", len(content), err)
			}
			must(t, c.Cont(t.Context()))
			must(t, vm.WaitProgress(t.Context(), 30*time.Second))
			must(t, vm.Corrupt())
		})
	}
}

// The guest finds a change of its memory from outside.
func TestRealQEMU_GuestFindsDamage(t *testing.T) {
	memory := filepath.Join(t.TempDir(), "memory")
	vm := Start(t, Config{MemFile: memory, FillMiB: 8})
	must(t, vm.WaitReady(within(t, 2*time.Minute)))
	f, err := os.OpenFile(memory, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	content := make([]byte, 256<<20)
	_, err = f.ReadAt(content, 0)
	must(t, err)

	// Page 5 of the fill: its number, sequence number 0, and text after the
	// checksum.
	damaged := false
	for at := 0; at < len(content) && !damaged; at += 4096 {
		page := content[at:][:4096]
		if bytes.HasPrefix(page, []byte("\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")) && bytes.Contains(page, []byte("machine ")) {
			_, err := f.WriteAt([]byte("!"), int64(at)+3000)
			must(t, err)
			damaged = true
		}
	}
	if !damaged {
		t.Fatal("the page is not in the memory file")
	}
	err = vm.WaitVerified(within(t, time.Minute))
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "page=5 ") {
		t.Errorf("got %v, want ErrCorrupt and the page's number", err)
	}
}

func TestRealQEMU_PausedAndPreallocated(t *testing.T) {
	vm := Start(t, Config{Paused: true, Prealloc: true, MemoryMiB: 128})
	c := connect(t, vm.QMPPath())
	state, err := c.QueryStatus(t.Context())
	if err != nil || state.Status != qmp.StatePrelaunch || state.Running {
		t.Errorf("state: %+v, %v", state, err)
	}
	var blocks string
	must(t, c.Execute(t.Context(), "human-monitor-command", map[string]string{"command-line": "info ramblock"}, &blocks))
	if !strings.Contains(blocks, " pc.ram ") {
		t.Errorf("no block pc.ram:\n%s", blocks)
	}
	memdev, err := c.QueryMemdev(t.Context())
	if err != nil || len(memdev) != 1 || !memdev[0].Prealloc || memdev[0].Size != 128<<20 {
		t.Errorf("memory: %+v, %v", memdev, err)
	}
}

func TestRealQEMU_RefusedOption(t *testing.T) {
	_, err := Launch(t.Context(), Config{ExtraArgs: []string{"-device", "no-such-device"}})
	if !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "no-such-device") {
		t.Errorf("got %v, want ErrExited and QEMU's words", err)
	}
}

func TestRealQEMU_Kill(t *testing.T) {
	vm := Start(t, Config{Paused: true})
	if !vm.Alive() || !exists(vm.Pid()) {
		t.Fatal("not alive after the start")
	}
	vm.Kill()
	if vm.Alive() || exists(vm.Pid()) {
		t.Error("alive after Kill")
	}
	if err := vm.WaitReady(t.Context()); !errors.Is(err, ErrExited) {
		t.Errorf("waiting for a dead machine: %v, want ErrExited", err)
	}
	vm.Kill() // again does nothing
}

func TestRealQEMU_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	vm, err := Launch(ctx, Config{Paused: true})
	must(t, err)
	defer vm.Close()
	cancel()
	select {
	case <-vm.Exited():
	case <-time.After(30 * time.Second):
		t.Error("QEMU outlives its context")
	}
}

// QEMU does not outlive a test process that is killed and runs no cleanup.
func TestRealQEMU_EndsWithTheTestProcess(t *testing.T) {
	const folder = "QEMUTEST_LAUNCH_IN" // set in the child
	if dir := os.Getenv(folder); dir != "" {
		vm, err := Launch(t.Context(), Config{Paused: true, Dir: dir})
		must(t, err)
		fmt.Println("pid", vm.Pid())
		time.Sleep(time.Hour) // the runtime could report select{} as a deadlock
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRealQEMU_EndsWithTheTestProcess$")
	child.Env = append(os.Environ(), folder+"="+t.TempDir())
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(line), "pid "))
	must(t, err)
	if !exists(pid) {
		t.Fatal("QEMU did not start")
	}
	must(t, child.Process.Kill())
	child.Wait()
	for end := time.Now().Add(10 * time.Second); exists(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("QEMU still runs")
		}
	}
}

// exists reports whether a process runs. A zombie does not run.
func exists(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return !bytes.HasPrefix(rest, []byte("Z"))
}
