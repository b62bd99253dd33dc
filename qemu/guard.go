package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/qmp"
)

// Guard is a small process that outlives the one that saves. If that is
// killed, it takes the migration back and lets the machine run on, within two
// seconds where QEMU answers.
type Guard struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

// guardOrder is what a guard is told on its standard input, as one line. The
// end of its input without disarmed on a line of its own is its parent's
// death.
type guardOrder struct {
	QMP string `json:"qmp"`
	// Run says that the machine ran before, and is to run on.
	Run bool `json:"run"`
	// Before is what is to be put back.
	Before settings `json:"before"`
}

const disarmed = "disarmed\n"

// startGuard starts a guard with the command that runs RunGuard.
func startGuard(command []string, order guardOrder) (*Guard, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	// In a session of its own, what is sent to the terminal's group passes
	// it by.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the guard process: %w", err)
	}
	g := &Guard{cmd: cmd, stdin: stdin}
	if _, err := stdin.Write(append(marshal(order), '\n')); err != nil {
		g.Disarm()
		return nil, fmt.Errorf("telling the guard process what to guard: %w", err)
	}
	if _, err := io.ReadFull(ready, make([]byte, len(armed))); err != nil {
		g.Disarm()
		return nil, fmt.Errorf("the guard process did not start: %w", err)
	}
	return g, nil
}

const armed = "armed\n"

// Disarm ends the guard: the machine is in order.
func (g *Guard) Disarm() error {
	_, err := io.WriteString(g.stdin, disarmed)
	g.stdin.Close()
	if waitErr := g.cmd.Wait(); err == nil {
		err = waitErr
	}
	return err
}

// RunGuard is the guard's side. in is its standard input and out its standard
// output, both pipes from the process that it watches.
func RunGuard(in io.Reader, out io.Writer) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	lines := bufio.NewReader(io.LimitReader(in, 1<<20))
	var order guardOrder
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return nil // the parent died before it did anything
	}
	if err := json.Unmarshal(line, &order); err != nil {
		return fmt.Errorf("guard: the order: %w", err)
	}
	io.WriteString(out, armed)
	if last, _ := lines.ReadString('\n'); last == disarmed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := order.rescue(ctx); err != nil {
		return fmt.Errorf("guard: vmferry was killed while it saved, and the machine behind %s could not be put in order: %w", order.QMP, err)
	}
	return nil
}

// rescue connects as soon as QEMU lets go of the dead process.
func (o *guardOrder) rescue(ctx context.Context) error {
	for {
		c, err := qmp.Dial(ctx, o.QMP)
		if err == nil {
			defer c.Close()
			return settle(ctx, c, o.Run, &o.Before)
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
		if ctx.Err() != nil {
			return err
		}
	}
}

// settle takes a migration back that is under way, lets the machine run if it
// is to, and puts the settings back.
func settle(ctx context.Context, c *qmp.Client, run bool, before *settings) error {
	err := cancelMigration(ctx, c)
	if err == nil && run {
		err = resume(ctx, c)
	}
	if before != nil {
		// A machine that runs with odd settings is better than one that
		// does not; so this comes last.
		err = errors.Join(err, before.restore(ctx, c))
	}
	return err
}

// cancelMigration returns when no migration is under way.
func cancelMigration(ctx context.Context, c *qmp.Client) error {
	for cancelled := false; ; {
		m, err := c.QueryMigrate(ctx)
		if err != nil {
			return err
		}
		if m.Status == "" || m.Status == qmp.MigrationNone || m.Ended() {
			return nil
		}
		if !cancelled {
			if err := c.MigrateCancel(ctx); err != nil {
				return err
			}
			cancelled = true
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// resume returns when the machine runs.
func resume(ctx context.Context, c *qmp.Client) error {
	for {
		s, err := c.QueryStatus(ctx)
		if err != nil {
			return err
		}
		switch s.Status {
		case qmp.StateRunning:
			return nil
		case qmp.StatePostmigrate, qmp.StatePaused:
			if err := c.Cont(ctx); err != nil {
				return fmt.Errorf("letting the machine run on: %w", err)
			}
		case "finish-migrate":
			// QEMU is about to say how the migration ended.
		default:
			return nil // shut down, panicked, broken: not this program's doing
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("the machine is %q: %w", s.Status, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
