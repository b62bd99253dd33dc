//go:build netns

package godemo

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"github.com/vmferry/vmferry/internal/slowlink"
	"github.com/vmferry/vmferry/transport"
)

// The tests with the build tag netns migrate machines between two network namespaces,
// and break links and kill processes meanwhile. They need root, ip and tc. The test
// binary runs in every role; the environment says in which one.
const (
	roleVar    = "VMFERRY_NETNS_ROLE"
	addressVar = "VMFERRY_NETNS_ADDRESS"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := runRole(role, os.Getenv(addressVar)); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func runRole(role, address string) error {
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
	}
	return fmt.Errorf("unknown role %q", role)
}

// roleCommand makes the command that runs this binary in a role, at an end of a link.
func roleCommand(ctx context.Context, link *slowlink.Link, end slowlink.End, role, address string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := link.Command(ctx, end, self)
	cmd.Env = append(os.Environ(), roleVar+"="+role, addressVar+"="+address)
	return cmd, nil
}
