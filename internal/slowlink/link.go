package slowlink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// End is an end of a link.
type End int

// The ends of a link.
const (
	Source End = iota
	Destination
)

// device is the name of the veth device in both namespaces.
const device = "wire"

// IP is the address of an end.
func (e End) IP() string { return fmt.Sprintf("10.99.7.%d", e+1) }

// Link is a pair of network namespaces, joined by a veth pair. All links have the same
// addresses, each in namespaces of its own.
type Link struct {
	names   [2]string
	sweeper *input
	ip      [2]*input
}

var links atomic.Int32

// New makes a link that is up and has no limit. The caller closes it.
func New() (*Link, error) {
	if err := checkRequirements(); err != nil {
		return nil, err
	}
	n, l := links.Add(1), new(Link)
	for i, letter := range []string{"A", "B"} {
		l.names[i] = fmt.Sprintf("vf%s%d-%d", letter, os.Getpid(), n)
	}
	if err := l.create(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Start makes a link for a test. It ends with the test.
func Start(tb testing.TB) *Link {
	tb.Helper()
	l, err := New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

// checkRequirements names the requirements that are missing.
func checkRequirements() error {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool+" (Debian's package iproute2)")
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("slowlink: links between network namespaces need root, ip and tc; missing: %s", strings.Join(missing, ", "))
	}
	return nil
}

// sweep removes the namespaces when its input ends, which is when this process closes it or
// ends. A panic or a timeout of a test runs no cleanup functions.
const sweep = `cat >/dev/null; for name; do ip netns del "$name" || failed=1; done; exit ${failed:-0}`

func (l *Link) create() (err error) {
	cmd := exec.Command("sh", "-c", sweep, "sweep", l.names[Source], l.names[Destination])
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // so that ^C does not end it
	if l.sweeper, err = startInput(cmd); err != nil {
		return err
	}
	for _, name := range l.names {
		if err := command("ip netns add %s", name); err != nil {
			return err
		}
	}
	if err := command("ip link add %s netns %s type veth peer name %s netns %s", device, l.names[0], device, l.names[1]); err != nil {
		return err
	}
	for i, name := range l.names {
		if err := command("ip -n %s addr add %s/24 dev %s", name, End(i).IP(), device); err != nil {
			return err
		}
		for _, dev := range []string{"lo", device} {
			if err := command("ip -n %s link set %s up", name, dev); err != nil {
				return err
			}
		}
		// Starting a process for each command would take too long to hit a short phase
		// of a migration.
		if l.ip[i], err = startInput(exec.Command("ip", "-n", name, "-force", "-batch", "-")); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the link and its namespaces. Processes at its ends have no network then.
func (l *Link) Close() error {
	var errs []error
	for _, in := range []*input{l.ip[Source], l.ip[Destination], l.sweeper} {
		if in != nil {
			errs = append(errs, in.close())
		}
	}
	return errors.Join(errs...)
}

// Namespace is the name of an end's network namespace.
func (l *Link) Namespace(e End) string { return l.names[e] }

// Command returns a command that runs at an end. The kernel kills it when the thread ends
// that started it, or this process.
func (l *Link) Command(ctx context.Context, e End, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.names[e], name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// SetDown takes the link down at one end. Packets are lost; connections stay, and go on if
// the link comes up before their timeouts.
func (l *Link) SetDown(e End) { l.ip[e].send("link set " + device + " down\n") }

// SetUp brings the link up at both ends.
func (l *Link) SetUp() {
	for _, in := range l.ip {
		in.send("link set " + device + " up\n")
	}
}

// LimitRate limits the rate in both directions. rate is in the notation of tc, such as
// 100mbit; "" means no limit.
func (l *Link) LimitRate(rate string) error {
	for _, name := range l.names {
		command("tc -n %s qdisc del dev %s root", name, device) // there may be none
		if rate == "" {
			continue
		}
		if err := command("tc -n %s qdisc add dev %s root tbf rate %s burst 256kb latency 50ms", name, device, rate); err != nil {
			return err
		}
	}
	return nil
}

func command(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("slowlink: %s: %w: %s", line, err, out)
	}
	return nil
}

// input is a process that reads commands from its standard input.
type input struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer

	mu  sync.Mutex
	in  io.WriteCloser
	err error // of the first write that failed
}

func startInput(cmd *exec.Cmd) (*input, error) {
	p := &input{cmd: cmd}
	cmd.Stderr = &p.stderr
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("slowlink: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("slowlink: %w", err)
	}
	return p, nil
}

// send writes a line. close returns its error.
func (p *input) send(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := io.WriteString(p.in, line); p.err == nil {
		p.err = err
	}
}

// close ends the input and waits until the process has ended.
func (p *input) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.in.Close()
	err := errors.Join(p.err, p.cmd.Wait())
	if err != nil {
		return fmt.Errorf("slowlink: %s: %w: %s", strings.Join(p.cmd.Args, " "), err, p.stderr.Bytes())
	}
	return nil
}
