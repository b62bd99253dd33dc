package qemutest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// startTimeout bounds the wait for the monitor of a QEMU that starts.
const startTimeout = time.Minute

// ErrExited is wrapped by errors about a QEMU that has ended.
var ErrExited = errors.New("QEMU has exited")

// VM is a QEMU process with its guest. Several goroutines may call its methods.
type VM struct {
	cfg    Config
	dir    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	err    error         // of the exit; set before exited is closed
}

// Launch starts a machine and waits until QEMU serves its monitor. The guest then boots. The
// end of ctx kills QEMU. The caller must call Close.
//
// The error wraps [ErrNotSetUp] if a file is missing that scripts/setup prepares.
// Otherwise the error has the output of QEMU.
func Launch(ctx context.Context, cfg Config) (*VM, error) {
	cfg = cfg.withDefaults()
	files, err := FindFiles(cfg.Version)
	if err != nil {
		return nil, err
	}
	if cfg.initrd != "" {
		files.Initrd = cfg.initrd
	}
	dir, err := os.MkdirTemp(cfg.Dir, "qemu-")
	if err != nil {
		return nil, fmt.Errorf("qemutest: %w", err)
	}
	vm := &VM{cfg: cfg, dir: dir, exited: make(chan struct{})}
	if err := vm.start(ctx, files.QEMU, cfg.args(files.Kernel, files.Initrd, dir)); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := vm.awaitMonitor(ctx); err != nil {
		vm.Close()
		return nil, err
	}
	return vm, nil
}

// start starts QEMU in a process group of its own. QEMU ends with ctx, and with this
// process, even if this process is killed.
func (vm *VM) start(ctx context.Context, binary string, args []string) error {
	stderr, err := os.Create(filepath.Join(vm.dir, stderrName))
	if err != nil {
		return fmt.Errorf("qemutest: %w", err)
	}
	defer stderr.Close() // QEMU has its own copy
	line := slices.Concat(vm.cfg.Launcher, []string{binary}, args)
	vm.cmd = exec.CommandContext(ctx, line[0], line[1:]...)
	vm.cmd.Stdout, vm.cmd.Stderr = stderr, stderr
	vm.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	vm.cmd.Cancel = func() error { vm.signal(syscall.SIGKILL); return nil }

	started := make(chan error)
	go func() {
		// The kernel sends the parent-death signal when the thread ends that started
		// the process. A locked thread lives as long as this goroutine.
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

// awaitMonitor waits until QEMU answers on the second socket. QEMU has then accepted all
// options and allocated the memory.
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
			return fmt.Errorf("qemutest: QEMU does not serve its monitor: %w; its output: %s", err, vm.Stderr())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// exitError returns the error for a QEMU that has ended.
func (vm *VM) exitError() error {
	cause := "without an error"
	if vm.err != nil {
		cause = vm.err.Error()
	}
	return fmt.Errorf("qemutest: %w (%s); its output: %s", ErrExited, cause, vm.Stderr())
}

// Alive reports whether the QEMU process runs.
func (vm *VM) Alive() bool {
	select {
	case <-vm.exited:
		return false
	default:
		return true
	}
}

// Exited returns a channel that is closed when the QEMU process has ended.
func (vm *VM) Exited() <-chan struct{} { return vm.exited }

// Kill kills QEMU with SIGKILL, as a crash would, and waits until the process has ended. Its
// files stay.
func (vm *VM) Kill() {
	vm.signal(syscall.SIGKILL)
	<-vm.exited
}

// Signal sends a signal to QEMU, such as SIGSTOP to make it hang.
func (vm *VM) Signal(s syscall.Signal) { vm.signal(s) }

// signal sends a signal to QEMU and to the processes that QEMU started. A process group
// that has ended is not an error.
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

// Pid returns the process ID of QEMU.
func (vm *VM) Pid() int { return vm.cmd.Process.Pid }

// Config returns the configuration of the machine, with the defaults filled in.
func (vm *VM) Config() Config { return vm.cfg }

// MemFile returns the file that is the guest's memory, "" if there is none.
func (vm *VM) MemFile() string { return vm.cfg.MemFile }

// QMPPath returns the path of the first monitor socket, for the code under test.
func (vm *VM) QMPPath() string { return filepath.Join(vm.dir, qmpName) }

// QMPPath2 returns the path of the second monitor socket, for the test itself.
func (vm *VM) QMPPath2() string { return filepath.Join(vm.dir, qmp2Name) }

// Stderr returns the output of QEMU so far.
func (vm *VM) Stderr() string { return vm.read(stderrName) }

// Serial returns the output of the guest so far.
func (vm *VM) Serial() string { return vm.read(serialName) }

// read returns the content of a file of the machine, "" if the file does not exist yet.
func (vm *VM) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(vm.dir, name))
	return string(b)
}
