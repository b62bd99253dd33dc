package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/internal/termtext"
)

// atPauseCommand is a user's shell command, which runs while the machine is paused.
type atPauseCommand struct {
	command string // "" is none
	timeout time.Duration
	env     []string // in addition to VMFERRY_QMP
}

// runAtPause runs the user's command while the machine is paused.
func (o *outgoing) runAtPause(ctx context.Context, c atPauseCommand) error {
	if c.command == "" {
		return nil
	}
	// The command's timeout bounds it.
	o.vm.SetAnswerTimeout(0)
	defer o.vm.SetAnswerTimeout(answerTimeout(o.stall))
	still := watchPause(o.vm)
	defer still.close()
	monitor, err := startAtPauseMonitor(o.vm, o.dir, o.task)
	if err != nil {
		return fmt.Errorf("the command at the pause: %w", err)
	}
	defer monitor.stop()
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout,
		fmt.Errorf("it took longer than %v (raise --at-pause-timeout if the machine may be paused for longer)", c.timeout))
	defer cancel()
	// Pdeathsig ends the command when the thread that started it ends. A locked
	// thread does not end before this function returns or the process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", c.command)
	cmd.Env = append(append(os.Environ(), c.env...), "VMFERRY_QMP="+monitor.path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	out := &lastBytes{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if ctx.Err() != nil {
		// Processes that the command started could still write to the disk.
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		return fmt.Errorf("the command at the pause was ended, so %s: %w: %s: %s", o.task.failed, context.Cause(ctx), c.command, termtext.Text(string(bytes.TrimSpace(out.b))))
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		err = errors.New("it ended, but a process that it started keeps its output open (let the command wait for that process, or redirect the process's output)")
	}
	if err != nil {
		return fmt.Errorf("the command at the pause failed, so %s: %w: %s: %s", o.task.failed, err, c.command, termtext.Text(string(bytes.TrimSpace(out.b))))
	}
	err = still.check(ctx)
	if errors.Is(err, errResumed) {
		return fmt.Errorf("%w while the command at the pause worked, so the disks and the memory are not of the same moment, and %s", err, o.task.failed)
	}
	return err
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	b     []byte
	limit int
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if over := len(l.b) - l.limit; over > 0 {
		l.b = append(l.b[:0], l.b[over:]...)
	}
	return len(p), nil
}
