//go:build netns

package godemo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vmferry/vmferry/transport"
)

// The tests behind the build tag netns move machines between two network
// namespaces and break things meanwhile. They need root, ip and tc. The test
// binary plays all parts: which one is in the environment.
const (
	roleVar    = "VMFERRY_NETNS_ROLE"
	addressVar = "VMFERRY_NETNS_ADDRESS"
	delayVar   = "VMFERRY_NETNS_DELAY"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := play(role, os.Getenv(addressVar)); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		return
	}
	swept := func() {}
	if needed() == nil { // if not, the tests say so
		sweep(func(pid int) bool { return pid != os.Getpid() && syscall.Kill(pid, 0) == syscall.ESRCH })
		swept = startSweeper()
	}
	code := m.Run()
	swept()
	os.Exit(code)
}

// needed says what is missing.
func needed() error {
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
		return fmt.Errorf("tests across network namespaces need root, ip and tc; missing: %s", strings.Join(missing, ", "))
	}
	return nil
}

func play(role, address string) error {
	if role == "sweeper" {
		io.Copy(io.Discard, os.Stdin)
		parent, err := strconv.Atoi(address)
		sweep(func(pid int) bool { return pid == parent })
		return err
	}
	ctx, log := context.Background(), slog.New(slog.NewTextHandler(os.Stderr, nil))
	at, err := transport.ParseAddress(address)
	if err != nil {
		return err
	}
	cfg, err := ReadConfig(os.Stdin)
	if err != nil {
		return err
	}
	switch role {
	case "source":
		return Source(ctx, cfg, at, os.Stdout, log)
	case "destination":
		return Destination(ctx, cfg, at, os.Stdout, log)
	case "proxy":
		return delayingProxy(at, os.Getenv(delayVar), os.Stdout)
	}
	return fmt.Errorf("unknown role %q", role)
}

// as makes the command in which this binary plays a role in a namespace. It
// does not outlive this process.
func as(ctx context.Context, namespace, role, address string, env ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", namespace, self)
	if namespace == "" {
		cmd = exec.CommandContext(ctx, self)
	}
	cmd.Env = append(append(os.Environ(), roleVar+"="+role, addressVar+"="+address), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// startSweeper starts a process that removes this one's namespaces when this
// one ends, however that happens: a panic or a timeout runs no cleanup. The
// function returned has it do so now.
func startSweeper() func() {
	cmd, err := as(context.Background(), "", "sweeper", strconv.Itoa(os.Getpid()))
	if err != nil {
		panic(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a ^C is not for it
	in, err := cmd.StdinPipe()
	if err = errors.Join(err, cmd.Start()); err != nil {
		panic(err)
	}
	return func() {
		in.Close()
		cmd.Wait()
	}
}

// ours are the names of namespaces that these tests make: the process is in it.
var ours = regexp.MustCompile(`^vf[AB](\d+)-\d+$`)

// sweep removes the namespaces of the processes chosen.
func sweep(chosen func(pid int) bool) {
	list, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(list)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		found := ours.FindStringSubmatch(name)
		if found == nil {
			continue
		}
		if pid, err := strconv.Atoi(found[1]); err == nil && chosen(pid) {
			exec.Command("ip", "netns", "del", name).Run()
		}
	}
}
