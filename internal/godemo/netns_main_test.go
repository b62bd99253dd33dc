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

// The tests with the build tag netns migrate machines between two network namespaces,
// and break links and kill processes meanwhile. They need root, ip and tc. The test
// binary runs in every role; the environment says in which one.
const (
	roleVar    = "VMFERRY_NETNS_ROLE"
	addressVar = "VMFERRY_NETNS_ADDRESS"
	delayVar   = "VMFERRY_NETNS_DELAY"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := runRole(role, os.Getenv(addressVar)); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		return
	}
	stopSweeper := func() {}
	if checkRequirements() == nil { // otherwise each test fails with the error
		removeNamespaces(func(pid int) bool { return pid != os.Getpid() && syscall.Kill(pid, 0) == syscall.ESRCH })
		stopSweeper = startSweeper()
	}
	code := m.Run()
	stopSweeper()
	os.Exit(code)
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
		return fmt.Errorf("tests across network namespaces need root, ip and tc; missing: %s", strings.Join(missing, ", "))
	}
	return nil
}

func runRole(role, address string) error {
	if role == "sweeper" {
		io.Copy(io.Discard, os.Stdin)
		parent, err := strconv.Atoi(address)
		removeNamespaces(func(pid int) bool { return pid == parent })
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

// roleCommand makes the command that runs this binary in a role and a network namespace.
// The kernel kills the command when this process ends.
func roleCommand(ctx context.Context, namespace, role, address string, env ...string) (*exec.Cmd, error) {
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

// startSweeper starts a process that removes the namespaces of this process when this
// process ends. A panic or a timeout runs no cleanup functions. stop makes the sweeper
// remove the namespaces now.
func startSweeper() (stop func()) {
	cmd, err := roleCommand(context.Background(), "", "sweeper", strconv.Itoa(os.Getpid()))
	if err != nil {
		panic(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // so that ^C does not end it
	in, err := cmd.StdinPipe()
	if err = errors.Join(err, cmd.Start()); err != nil {
		panic(err)
	}
	return func() {
		in.Close()
		cmd.Wait()
	}
}

// namespaceName matches the names of the namespaces that these tests make. The first
// group is the process ID of the test.
var namespaceName = regexp.MustCompile(`^vf[AB](\d+)-\d+$`)

// removeNamespaces removes the namespaces of the chosen processes.
func removeNamespaces(chosen func(pid int) bool) {
	list, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(list)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		found := namespaceName.FindStringSubmatch(name)
		if found == nil {
			continue
		}
		if pid, err := strconv.Atoi(found[1]); err == nil && chosen(pid) {
			exec.Command("ip", "netns", "del", name).Run()
		}
	}
}
