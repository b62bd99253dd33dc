package qemutest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// startTimeout bounds how long a QEMU may take to serve its monitor.
const startTimeout = time.Minute

// ErrExited is wrapped when something was expected of a QEMU that has ended.
var ErrExited = errors.New("QEMU has exited")

// VM is a QEMU process and what is known of the guest inside. Its methods may
// be called from several goroutines.
type VM struct {
	cfg    Config
	dir    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone
	err    error         // of the exit; set before exited is closed
}

// Launch starts a machine and returns when it serves its monitor; the guest
// then begins to boot. The end of ctx kills it. Call Close when done.
//
// The error wraps [ErrNotSetUp] if something is missing that scripts/setup
// prepares, and otherwise holds what QEMU said.
func Launch(ctx context.Context, cfg Config) (*VM, error) {
	cfg = cfg.withDefaults()
	m, err := readManifest()
	if err != nil {
		return nil, err
	}
	binary, err1 := m.qemu(cfg.Version)
	kernel, err2 := m.file("KERNEL")
	initrd, err3 := m.file("INITRD")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	if cfg.initrd != "" {
		initrd = cfg.initrd
	}
	dir, err := os.MkdirTemp(cfg.Dir, "qemu-")
	if err != nil {
		return nil, fmt.Errorf("qemutest: %w", err)
	}
	vm := &VM{cfg: cfg, dir: dir, exited: make(chan struct{})}
	if err := vm.start(ctx, binary, cfg.args(kernel, initrd, dir)); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := vm.awaitMonitor(ctx); err != nil {
		vm.Close()
		return nil, err
	}
	return vm, nil
}

// start runs QEMU in a process group of its own and sees to it that it ends
// with ctx, and with this process even if that is killed.
func (vm *VM) start(ctx context.Context, binary string, args []string) error {
	stderr, err := os.Create(filepath.Join(vm.dir, stderrName))
	if err != nil {
		return fmt.Errorf("qemutest: %w", err)
	}
	defer stderr.Close() // QEMU has its own copy
	vm.cmd = exec.CommandContext(ctx, binary, args...)
	vm.cmd.Stdout, vm.cmd.Stderr = stderr, stderr
	vm.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	vm.cmd.Cancel = func() error { vm.signal(syscall.SIGKILL); return nil }

	started := make(chan error)
	go func() {
		// The parent-death signal comes when the thread ends that started the
		// process, so this one is kept for as long as QEMU runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := vm.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		vm.err = vm.cmd.Wait()
		close(vm.exited)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("qemutest: start %s: %w", binary, err)
	}
	return nil
}

// awaitMonitor returns when QEMU answers on the second socket, after all
// options have been accepted and the memory is there.
func (vm *VM) awaitMonitor(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		c, err := qmp.Dial(ctx, vm.QMPPath2())
		if err == nil {
			return c.Close()
		}
		select {
		case <-vm.exited:
			return vm.exitError()
		case <-ctx.Done():
			return fmt.Errorf("qemutest: QEMU does not serve its monitor: %w; it said: %s", err, vm.Stderr())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// exitError says how QEMU ended, which it must have.
func (vm *VM) exitError() error {
	cause := "without an error"
	if vm.err != nil {
		cause = vm.err.Error()
	}
	return fmt.Errorf("qemutest: %w (%s); it said: %s", ErrExited, cause, vm.Stderr())
}

// Alive tells whether the QEMU process still runs.
func (vm *VM) Alive() bool {
	select {
	case <-vm.exited:
		return false
	default:
		return true
	}
}

// Exited is closed when the QEMU process has ended.
func (vm *VM) Exited() <-chan struct{} { return vm.exited }

// Kill ends QEMU at once with SIGKILL, as a crash would, and waits until it
// is gone. Its files stay.
func (vm *VM) Kill() {
	vm.signal(syscall.SIGKILL)
	<-vm.exited
}

// Signal sends a signal to QEMU, such as SIGSTOP to make it hang.
func (vm *VM) Signal(s syscall.Signal) { vm.signal(s) }

// signal reaches QEMU and whatever it started. A process group that is gone
// is no error.
func (vm *VM) signal(s syscall.Signal) {
	if vm.Alive() {
		_ = syscall.Kill(-vm.cmd.Process.Pid, s)
	}
}

// Close kills QEMU and removes its folder. MemFile stays.
func (vm *VM) Close() {
	vm.Kill()
	os.RemoveAll(vm.dir)
}

// Pid gives the process id of QEMU.
func (vm *VM) Pid() int { return vm.cmd.Process.Pid }

// Config gives what the machine was started with, defaults filled in.
func (vm *VM) Config() Config { return vm.cfg }

// MemFile gives the file that is the guest's memory, "" if there is none.
func (vm *VM) MemFile() string { return vm.cfg.MemFile }

// QMPPath gives the first monitor socket, for what is under test.
func (vm *VM) QMPPath() string { return filepath.Join(vm.dir, qmpName) }

// QMPPath2 gives the second monitor socket, for the test itself.
func (vm *VM) QMPPath2() string { return filepath.Join(vm.dir, qmp2Name) }

// Stderr gives what QEMU printed so far.
func (vm *VM) Stderr() string { return vm.read(stderrName) }

// Serial gives what the guest printed so far.
func (vm *VM) Serial() string { return vm.read(serialName) }

// read gives a file of the machine's; one that is not there yet is empty.
func (vm *VM) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(vm.dir, name))
	return string(b)
}
