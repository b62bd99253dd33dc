package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vmferry/vmferry/qmp"
)

// atPauseMonitor is a QMP socket for the command at the pause. QEMU's own socket serves
// one client, which is the save or the migration. The atPauseMonitor forwards commands
// over the monitor of that task, of whatever kind it is, and sends answers and events back.
type atPauseMonitor struct {
	path   string
	task   taskName // that has paused the machine
	vm     *qmp.Machine
	ln     net.Listener
	ctx    context.Context
	cancel context.CancelFunc
	served sync.WaitGroup
}

// refusedAtPause are commands that would change the run state or the memory that the
// save relies on. Commands that begin with "migrate" are refused too.
var refusedAtPause = []string{"cont", "stop", "loadvm"}

// startAtPauseMonitor listens in the directory of the save's socket, which is removed
// with all that the save made in it, by the guard too.
func startAtPauseMonitor(vm *qmp.Machine, dir *socketDir, task taskName) (*atPauseMonitor, error) {
	ln, err := dir.listenAs(monitorName)
	if err != nil {
		return nil, fmt.Errorf("its QMP socket: %w", err)
	}
	m := &atPauseMonitor{path: filepath.Join(dir.path, monitorName), task: task, vm: vm, ln: ln}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.served.Go(m.accept)
	return m, nil
}

// stop ends the serving. The socket is removed with its directory.
func (m *atPauseMonitor) stop() {
	m.cancel()
	m.ln.Close()
	m.served.Wait()
}

func (m *atPauseMonitor) accept() {
	for {
		conn, err := m.ln.Accept()
		if err != nil {
			return
		}
		m.served.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(m.ctx, func() { conn.Close() })
			defer stop()
			client := &atPauseClient{m: m, out: json.NewEncoder(conn)}
			client.serve(conn)
		})
	}
}

// atPauseClient is one client of the monitor.
type atPauseClient struct {
	m   *atPauseMonitor
	mu  sync.Mutex
	out *json.Encoder // which writes a line at a time
}

// serve answers commands until the client disconnects or an answer cannot be sent.
func (a *atPauseClient) serve(conn net.Conn) {
	if a.send(a.greeting()) != nil {
		return
	}
	events := a.m.vm.Subscribe()
	var passing sync.WaitGroup
	passing.Go(func() { a.passEvents(events) })
	defer passing.Wait()
	defer events.Close()
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, qmp.MaxMessage)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		if a.send(a.answer(lines.Bytes())) != nil {
			return
		}
	}
}

func (a *atPauseClient) send(v any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.Encode(v)
}

func (a *atPauseClient) greeting() any {
	v := a.m.vm.Version()
	return map[string]any{"QMP": map[string]any{
		"version":      map[string]any{"qemu": v, "package": v.Package},
		"capabilities": []string{},
	}}
}

func (a *atPauseClient) passEvents(events *qmp.Subscription) {
	for e := range events.Events() {
		line := map[string]any{
			"event":     e.Name,
			"timestamp": map[string]int64{"seconds": e.Time.Unix(), "microseconds": int64(e.Time.Nanosecond() / 1000)},
		}
		if e.Data != nil {
			line["data"] = e.Data
		}
		if a.send(line) != nil {
			return
		}
	}
}

// atPauseRequest is a client's command. QMP allows any JSON value as id.
type atPauseRequest struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        json.RawMessage `json:"id"`
}

// answer executes a command and returns the answer to it.
func (a *atPauseClient) answer(line []byte) any {
	var r atPauseRequest
	answer := map[string]any{}
	fail := func(class, desc string) any {
		answer["error"] = map[string]string{"class": class, "desc": desc}
		return answer
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return fail("GenericError", fmt.Sprintf("the command is not a JSON object: %v", err))
	}
	if r.ID != nil {
		answer["id"] = r.ID
	}
	if r.Execute == "qmp_capabilities" {
		answer["return"] = struct{}{}
		return answer
	}
	if slices.Contains(refusedAtPause, r.Execute) || strings.HasPrefix(r.Execute, "migrate") {
		return fail("GenericError", fmt.Sprintf("%s is refused during --at-pause: the %s has paused the machine, and lets it run on afterwards", r.Execute, a.m.task.noun))
	}
	var args any
	if r.Arguments != nil {
		args = r.Arguments
	}
	var result json.RawMessage
	err := a.m.vm.Execute(a.m.ctx, r.Execute, args, &result)
	var refused *qmp.Error
	switch {
	case errors.As(err, &refused):
		return fail(refused.Class, refused.Desc)
	case err != nil:
		return fail("GenericError", err.Error())
	}
	answer["return"] = result
	return answer
}
