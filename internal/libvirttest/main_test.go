//go:build libvirt

package libvirttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/internal/certtest"
	"github.com/vmferry/vmferry/internal/qemutest"
)

// roleVar is set where the test binary is the first process of a host.
const roleVar = "VMFERRY_LIBVIRT_HOST"

// startTimeout bounds the wait for two libvirtds that probe QEMU.
const startTimeout = 3 * time.Minute

// The test bench, which all tests share.
var (
	hostA, hostB *host
	vmferry      string   // the path of the program
	tlsArgs      []string // the relays' arguments for TLS
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(roleVar); dir != "" {
		fmt.Fprintln(os.Stderr, runHost(dir))
		os.Exit(1)
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	if err := checkRequirements(); err != nil {
		return 1, err
	}
	// Not in a folder named after a test: a socket's path must fit into 107 bytes.
	base, err := os.MkdirTemp("", "vmferry")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(base)
	if err := prepareRelays(base); err != nil {
		return 1, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	hostA, hostB = newHost(base, "a"), newHost(base, "b")
	defer hostA.stop()
	defer hostB.stop()
	starting, ctx := errgroup.WithContext(ctx)
	for _, h := range []*host{hostA, hostB} {
		starting.Go(func() error { return h.start(ctx) })
	}
	if err := starting.Wait(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// checkRequirements names the requirements that are missing.
func checkRequirements() error {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, program := range []string{"libvirtd", "virsh"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the tests with libvirt need root, libvirtd and virsh; missing: %s (run scripts/setup libvirt)", strings.Join(missing, ", "))
	}
	_, err := qemutest.FindFiles("10.0")
	return err
}

// prepareRelays builds vmferry and makes certificates for the relays.
func prepareRelays(base string) error {
	vmferry = filepath.Join(base, "vmferry")
	build := exec.Command("go", "build", "-o", vmferry, "github.com/vmferry/vmferry/cmd/vmferry")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build vmferry: %w\n%s", err, out)
	}
	ca, err := certtest.NewAuthority()
	if err != nil {
		return err
	}
	pair, err := ca.Issue("relay")
	if err != nil {
		return err
	}
	var errs []error
	write := func(flag, name string, content []byte) {
		path := filepath.Join(base, name)
		errs = append(errs, os.WriteFile(path, content, 0o600))
		tlsArgs = append(tlsArgs, flag, path)
	}
	write("--tls-cert", "cert.pem", pair.Cert)
	write("--tls-key", "key.pem", pair.Key)
	write("--tls-ca", "ca.pem", ca.PEM())
	tlsArgs = append(tlsArgs, "--tls-peer", "localhost")
	return errors.Join(errs...)
}
