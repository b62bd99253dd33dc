package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/sleep"
	"github.com/vmferry/vmferry/qmp"
)

// Guard is a small process that outlives the process that saves or migrates. If that process is
// killed, the guard cancels the migration, brings the machine back to its state (within
// two seconds, if QEMU answers), and removes the socket's directory.
type Guard struct {
	cmd   *exec.Cmd
	ready io.Reader     // the guard's standard output
	conns *net.UnixConn // passes descriptors of QEMU's sockets to the guard

	mu    sync.Mutex
	stdin io.WriteCloser
}

// A guard reads recoveries from its standard input, one a line. The parent sends another
// one with each change; the last one counts. If the input ends without the line
// disarmed, the parent was killed.
const (
	disarmed = "disarmed\n"
	armed    = "armed\n"
)

// startGuard starts a guard with the command that runs RunGuard. Before it is armed, the
// guard does nothing for the machine.
func startGuard(command []string) (*Guard, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	// In a session of its own, the guard does not get the signals that the
	// terminal sends to its foreground process group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	conns, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd.ExtraFiles = []*os.File{theirs} // guardSocket
	if err := cmd.Start(); err != nil {
		conns.Close()
		return nil, fmt.Errorf("starting the guard process: %w", err)
	}
	return &Guard{cmd: cmd, ready: ready, conns: conns, stdin: stdin}, nil
}

// arm sends the guard its first recovery, and waits until the guard has read it.
func (g *Guard) arm(r *recovery) error {
	if err := g.sendRecovery(r); err != nil {
		return err
	}
	if _, err := io.ReadFull(g.ready, make([]byte, len(armed))); err != nil {
		return fmt.Errorf("the guard process did not start: %w", err)
	}
	return nil
}

// sendRecovery sends the guard the recovery that counts from now on.
func (g *Guard) sendRecovery(r *recovery) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the recovery for the guard process: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := g.stdin.Write(append(line, '\n')); err != nil {
		// The end of this pipe is not the end of QEMU's connection: see cause.ConnectionEnded.
		return fmt.Errorf("sending the recovery to the guard process: %v (was it killed?)", err)
	}
	return nil
}

// Disarm ends the guard. The machine is in its state again.
func (g *Guard) Disarm() error {
	g.mu.Lock()
	_, err := io.WriteString(g.stdin, disarmed)
	g.stdin.Close()
	g.conns.Close()
	g.mu.Unlock()
	if waitErr := g.cmd.Wait(); err == nil {
		err = waitErr
	}
	return err
}

// takeOver lets the guard bring the machine back to its state, as if this process had
// been killed. The guard ends by itself.
func (g *Guard) takeOver() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stdin.Close()
	g.conns.Close()
	go g.cmd.Wait() // which ends with the guard
}

const (
	// guardPatience is how long a guard tries to reach a QEMU that does not answer: its
	// process may be frozen for a while.
	guardPatience = time.Hour
	// guardPrompt is how long a guard tries before it reports that and closes its
	// standard error: the reader of a pipe sees no end before.
	guardPrompt = time.Minute
	// guardRetry is the time between two attempts.
	guardRetry = 100 * time.Millisecond
)

// maxRecoveryLine bounds a line that a guard reads.
const maxRecoveryLine = 1 << 20

// ParseMonitor makes an opener of the JSON that its MarshalJSON wrote in another
// process.
type ParseMonitor func([]byte) (qmp.Opener, error)

// RunGuard is what the guard process runs. in and out are its standard input and
// output, pipes to the process that it watches. parse knows the openers that
// SaveOptions.Monitor can be: qmp.SocketFromJSON if all are of the type qmp.Socket. If
// descriptor 3 is a socket, the guard receives QEMU's sockets over it.
func RunGuard(in io.Reader, out io.Writer, parse ParseMonitor) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	held := new(heldSockets)
	if socket, err := unixConnOf(guardSocket); err == nil {
		held = holdSockets(socket)
	}
	return guardBy(in, out, parse, held, func(r *recovery) {
		fmt.Fprintf(os.Stderr, "vmferry: guard: QEMU behind %s does not answer; this process tries for up to %v more to bring the machine back to its state\n", r.Monitor, guardPatience)
		if null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err == nil {
			unix.Dup3(int(null.Fd()), int(os.Stderr.Fd()), 0)
			null.Close()
		}
	})
}

// guardBy waits for the end of the process that it watches. If that process was killed,
// guardBy brings the machine back to its state. It calls late once if that takes longer
// than guardPrompt.
func guardBy(in io.Reader, out io.Writer, parse ParseMonitor, held *heldSockets, late func(*recovery)) error {
	var last *recovery
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxRecoveryLine)
	for lines.Scan() {
		if lines.Text()+"\n" == disarmed {
			return nil
		}
		next, err := readRecovery(lines.Bytes(), parse)
		if err != nil && last == nil && json.Valid(lines.Bytes()) {
			return fmt.Errorf("guard: %w", err) // the parent has changed nothing
		}
		if err != nil {
			break // an incomplete line: the recovery before it counts
		}
		if last == nil {
			io.WriteString(out, armed)
		}
		last = next
	}
	if last == nil {
		return nil // the parent was killed before it changed anything
	}
	defer held.close()
	ctx, cancel := context.WithTimeout(context.Background(), guardPatience)
	defer cancel()
	defer time.AfterFunc(guardPrompt, func() { late(last) }).Stop()
	err := errors.Join(held.drain(), last.reopenAndRun(ctx))
	if err != nil {
		err = fmt.Errorf("guard: vmferry was killed during a save or a migration, and the guard could not bring the machine of %s back to its state: %w (ask the machine for its state: QMP query-status; cont makes it run)", last.Monitor, err)
	}
	if last.Dir != nil {
		err = errors.Join(err, last.Dir.remove())
	}
	return err
}

// readRecovery reads a recovery that another process wrote.
func readRecovery(line []byte, parse ParseMonitor) (_ *recovery, err error) {
	var read struct {
		recovery
		Monitor json.RawMessage `json:"monitor"` // in place of that of recovery
	}
	if err := json.Unmarshal(line, &read); err != nil {
		return nil, fmt.Errorf("reading a recovery: %w", err)
	}
	if read.recovery.Monitor, err = parse(read.Monitor); err != nil {
		return nil, fmt.Errorf("reading a recovery: %w", err)
	}
	return &read.recovery, nil
}

// reopenAndRun brings the machine back to its state over another monitor. A QMP socket of
// QEMU gives one as soon as QEMU has closed the connection of the killed process.
func (r *recovery) reopenAndRun(ctx context.Context) error {
	for {
		monitor, err := qmp.OpenWithin(ctx, r.Monitor, 0)
		if err == nil {
			err = r.run(ctx, qmp.NewMachine(monitor))
			monitor.Close()
			if !errors.Is(err, qmp.ErrClosed) {
				return err
			}
		}
		if errors.Is(err, qmp.ErrNoQEMU) {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
		if sleep.For(ctx, guardRetry) != nil {
			return err
		}
	}
}
