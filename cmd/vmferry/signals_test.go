package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A signal that comes twice, as timeout(1) sends it, interrupts once: the process is
// not killed while it puts things in order.
func TestUntilSignal_TheSecondOfTwoSignalsDoesNotKill(t *testing.T) {
	const inside = "VMFERRY_TEST_SIGNALS"
	if os.Getenv(inside) == "" {
		self := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		self.Env = append(os.Environ(), inside+"=1")
		out, err := self.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "put in order") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	ctx, stop := untilSignal(context.Background())
	defer stop()
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	<-ctx.Done()
	time.Sleep(50 * time.Millisecond) // what handles the signal goes on
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	time.Sleep(50 * time.Millisecond)
	if err := context.Cause(ctx); !errors.Is(err, errSignal) {
		t.Errorf("the cause is %v", err)
	}
	os.Stdout.WriteString("put in order\n")
}
