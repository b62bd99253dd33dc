//go:build netns

package godemo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/slowlink"
)

// processes are the processes of one migration over a link.
type processes struct {
	t     *testing.T
	link  *slowlink.Link
	delay time.Duration // each way; 0 is no proxy

	mu     sync.Mutex
	cmds   map[string]*exec.Cmd
	stderr map[string]*bytes.Buffer
	victim string
}

// side is a Side whose processes run at the ends of the link.
func (p *processes) side(ctx context.Context, side, address string) *exec.Cmd {
	p.t.Helper()
	end := slowlink.Source
	if side == "destination" {
		end, address = slowlink.Destination, "tcp:"+slowlink.Destination.IP()+":0"
	} else if p.delay > 0 {
		address = p.proxy(address)
	}
	cmd, err := roleCommand(ctx, p.link, end, side, address)
	if err != nil {
		p.t.Error(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmds == nil {
		p.cmds, p.stderr = make(map[string]*exec.Cmd), make(map[string]*bytes.Buffer)
	}
	p.cmds[side], p.stderr[side] = cmd, new(bytes.Buffer)
	cmd.Stderr = p.stderr[side]
	return cmd
}

// window bounds the data on the way through a proxy. It is more than a migration of these
// tests sends within the delay.
const window = 64 << 20

// proxy starts a proxy in front of the destination and returns its address. The proxy ends
// with the test.
func (p *processes) proxy(target string) string {
	address, stop, err := p.link.StartProxy(slowlink.Proxy{Delay: p.delay, Window: window}, strings.TrimPrefix(target, "tcp:"))
	if err != nil {
		p.t.Errorf("starting the proxy: %v", err)
		return target
	}
	p.t.Cleanup(func() {
		if err := stop(); err != nil {
			p.t.Error(err)
		}
	})
	return "tcp:" + address
}

// kill kills a side.
func (p *processes) kill(side string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.victim = side
	p.cmds[side].Process.Kill()
}

// killed reports whether err is the exit of a side that kill killed. Such a side may have
// reported its end right before.
func (p *processes) killed(side string, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var exit *exec.ExitError
	return p.victim == side && errors.As(err, &exit) && !exit.Exited()
}

// logs returns the log of both sides, which must have ended.
func (p *processes) logs() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("source's log:\n%s\ndestination's log:\n%s", p.stderr["source"], p.stderr["destination"])
}
