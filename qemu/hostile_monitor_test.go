package qemu_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/transport"
)

// A hostileMonitor is a QEMU that answers by a script of bytes: each command that
// arrives takes the next event of it. At its end the monitor is a friendly one,
// which migrates out and in like a QEMU.
type hostileMonitor struct {
	t      *testing.T
	server *qmptest.Server
	saved  *snapshot.Reader // what it sends when it migrates out
	// impatient is called when the monitor goes silent: who waits for it is to
	// give up soon.
	impatient func()
	doing     sync.WaitGroup // its migrations
	over      context.Context

	mu        sync.Mutex
	script    []byte
	status    string // of the machine
	migration string
	caps      map[string]bool
	params    map[string]any
}

// hostileCommands are those with a friendly answer. Others are refused, where the
// script does not say otherwise.
var hostileCommands = []string{
	"query-status", "query-migrate", "query-migrate-capabilities", "query-migrate-parameters", "migrate-set-capabilities",
	"migrate-set-parameters", "migrate", "migrate_cancel", "migrate-incoming", "stop", "cont", "query-kvm", "query-uuid", "query-memdev",
	"qom-get", "qom-list", "qom-list-properties", "query-yank", "query-cpus-fast", "query-machines", "query-name", "query-version", "query-commands",
	"query-memory-size-summary", "query-hotpluggable-cpus", "query-block", "query-pci", "human-monitor-command", "yank",
}

var hostileVersions = []qmp.Version{
	{Major: 10}, {Major: 7, Minor: 2}, {Major: 11, Minor: 1, Micro: 2}, {Major: 9, Minor: 1}, {Major: 2, Minor: 8}, {Major: 1 << 30, Minor: -1},
}

func newHostileMonitor(t *testing.T, script []byte, version byte, incoming bool, saved *snapshot.Reader) *hostileMonitor {
	t.Helper()
	over, end := context.WithCancel(context.Background())
	m := &hostileMonitor{
		t: t, saved: saved, script: script, over: over, status: qmp.StateRunning, migration: qmp.MigrationNone, impatient: func() {},
		caps: map[string]bool{"multifd": false, "events": false, "xbzrle": true, "return-path": true, "mapped-ram": false, "postcopy-ram": true, "postcopy-preempt": true},
		params: map[string]any{
			"multifd-channels": 2, "multifd-compression": "none", "max-bandwidth": 1 << 27, "downtime-limit": 300,
			"tls-creds": "", "zero-page-detection": "multifd", "multifd-zlib-level": 1, "multifd-zstd-level": 1,
		},
	}
	if incoming {
		m.status = qmp.StateInmigrate
	}
	m.server = qmptest.Start(t, qmptest.Config{Version: hostileVersions[int(version)%len(hostileVersions)]})
	t.Cleanup(func() { end(); m.doing.Wait() })
	for _, command := range hostileCommands {
		m.server.Handle(command, func(ctx context.Context, args json.RawMessage) (any, error) { return m.event(ctx, command, args) })
	}
	return m
}

// next takes a byte of the script.
func (m *hostileMonitor) next() byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.script) == 0 {
		return 0
	}
	b := m.script[0]
	m.script = m.script[1:]
	return b
}

var (
	hostileEvents = []string{"STOP", "RESUME", "MIGRATION", "SHUTDOWN", "RESET", "GUEST_PANICKED", ""}
	hostileStates = []string{
		"running", "paused", "postmigrate", "inmigrate", "prelaunch", "finish-migrate", "shutdown", "guest-panicked", "io-error", "no such state", "",
	}
	hostilePhases = []string{
		"none", "setup", "active", "device", "completed", "failed", "failing", "cancelling", "cancelled", "postcopy-active", "no such phase", "",
	}
	hostileLines = []string{
		"\r\n", "{}\n", `{"return": {}, "id": 999}` + "\n", `{"return": {}}` + "\n", "[]\n", "\x00\xff\n", `{"QMP": {}}` + "\n", `{"return": `,
		`{"event": "STOP", "timestamp": {"seconds": -9223372036854775808, "microseconds": 1e400}}` + "\n", `{"error": {"class": 7}, "id": 1}` + "\n",
	}
)

// event answers a command by the next event of the script.
func (m *hostileMonitor) event(ctx context.Context, command string, args json.RawMessage) (any, error) {
	switch m.next() % 16 {
	case 6:
		return hostileValue(m.next()), nil
	case 7: // right, but for one part of it
		where, what := m.next(), m.next()
		value, err := m.friendly(command, args)
		if err != nil {
			return nil, err
		}
		return hostilePart(value, int(where), what), nil
	case 8:
		return nil, &qmp.Error{Class: []string{"GenericError", qmp.ClassCommandNotFound, "", "\x1b[31m"}[m.next()%4], Desc: strings.Repeat("no ", int(m.next()))}
	case 9:
		for range 1 + m.next()%8 {
			m.server.Emit(hostileEvents[int(m.next())%len(hostileEvents)], hostileValue(m.next()))
		}
	case 10:
		m.server.SendRaw([]byte(hostileLines[int(m.next())%len(hostileLines)]))
	case 11: // for as long as the client waits, and a little more
		m.impatient()
		select {
		case <-ctx.Done():
		case <-time.After(4 * hostileSilence):
			m.server.Die()
		}
		return nil, qmptest.ErrNoAnswer
	case 12:
		m.server.Die()
		return nil, qmptest.ErrNoAnswer
	case 13:
		time.Sleep(time.Duration(m.next()%20) * time.Millisecond)
	case 14: // another client changes the machine
		state, phase := m.next(), m.next()
		m.set(hostileStates[int(state)%len(hostileStates)], hostilePhases[int(phase)%len(hostilePhases)])
	case 15:
		return map[string]any{"status": strings.Repeat("x", 1<<20), "running": strings.Repeat("[", 1<<16)}, nil
	}
	return m.friendly(command, args)
}

// hostileValue is a value that an answer should not be.
func hostileValue(b byte) any {
	deep := json.RawMessage(strings.Repeat("[", 2000) + strings.Repeat("]", 2000))
	values := []any{
		json.RawMessage("null"), []any{}, "text", -1, json.RawMessage("18446744073709551616"), json.RawMessage("1e308"), true, map[string]any{}, deep,
		[]any{nil, 1, "x"}, map[string]any{"status": 5, "running": "yes"}, json.RawMessage("-9223372036854775809"), 1 << 62, "\u2028\x00\x1b[2J", []any{map[string]any{}},
	}
	return values[int(b)%len(values)]
}

// hostilePart changes the part of a value that is the where-th on a way through
// it: it is taken out or becomes something else.
func hostilePart(value any, where int, what byte) any {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // only friendly values
	}
	var tree any
	if json.Unmarshal(text, &tree) != nil {
		return hostileValue(what)
	}
	return hostileChange(tree, &where, what)
}

func hostileChange(node any, where *int, what byte) any {
	if *where--; *where < 0 {
		return hostileValue(what)
	}
	switch node := node.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(node)) {
			if *where < 0 {
				break
			}
			if node[key] = hostileChange(node[key], where, what); *where < 0 && what&0x80 != 0 {
				delete(node, key)
			}
		}
	case []any:
		for i := range node {
			if *where < 0 {
				break
			}
			node[i] = hostileChange(node[i], where, what)
		}
	}
	return node
}

func (m *hostileMonitor) set(status, phase string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if status != "" {
		m.status = status
	}
	m.migration = phase
}

// friendly is what a QEMU answers.
func (m *hostileMonitor) friendly(command string, args json.RawMessage) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch command {
	case "query-status":
		if m.status == "finish-migrate" && len(m.script) == 0 {
			m.status = qmp.StateRunning
		}
		return map[string]any{"status": m.status, "running": m.status == qmp.StateRunning}, nil
	case "query-migrate":
		return map[string]any{"status": m.migration, "ram": map[string]any{"total": 1 << 20, "remaining": 1, "dirty-sync-count": 3, "mbps": 1.5}, "downtime": 3}, nil
	case "query-migrate-capabilities":
		list := []map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(m.caps)) {
			list = append(list, map[string]any{"capability": name, "state": m.caps[name]})
		}
		return list, nil
	case "query-migrate-parameters":
		return maps.Clone(m.params), nil
	case "migrate-set-capabilities":
		var set struct {
			Capabilities []struct {
				Capability string
				State      bool
			}
		}
		json.Unmarshal(args, &set)
		now := maps.Clone(m.caps)
		for _, c := range set.Capabilities {
			now[c.Capability] = c.State
		}
		if now["postcopy-preempt"] && !now["postcopy-ram"] {
			return nil, errors.New("postcopy-preempt without postcopy-ram")
		}
		m.caps = now
	case "migrate-set-parameters":
		json.Unmarshal(args, &m.params)
	case "migrate_cancel", "yank":
		if m.migration != qmp.MigrationCompleted {
			m.migration = qmp.MigrationCancelled
		}
	case "stop":
		if m.status == qmp.StateRunning {
			m.status = qmp.StatePaused
		}
	case "cont":
		m.status = qmp.StateRunning
	case "query-kvm":
		return map[string]any{"enabled": true, "present": true}, nil
	case "query-uuid":
		return map[string]any{"UUID": "00000000-0000-0000-0000-000000000000"}, nil
	case "query-memdev", "query-yank":
		return []any{}, nil
	case "migrate", "migrate-incoming":
		return m.migrate(command, args)
	default:
		return nil, &qmp.Error{Class: qmp.ClassCommandNotFound, Desc: "The command has not been found"}
	}
	return nil, nil
}

// migrate starts a migration in or out; m.mu is held. How it goes is the next
// byte of the script.
func (m *hostileMonitor) migrate(command string, args json.RawMessage) (any, error) {
	var to struct{ URI string }
	json.Unmarshal(args, &to)
	addr, err := transport.ParseAddress(to.URI)
	if err != nil {
		return nil, err
	}
	var kind byte
	if len(m.script) > 0 {
		kind, m.script = m.script[0], m.script[1:]
	}
	peer := hostilePeer{addr: addr, kind: kind, silent: m.silence}
	name, _ := m.params["multifd-compression"].(string)
	if peer.method, err = multifd.MethodNamed(name); err != nil {
		return nil, err
	}
	if peer.channels = 2; fmt.Sprint(m.params["multifd-channels"]) == "1" {
		peer.channels = 1
	}
	m.migration = qmp.MigrationActive
	run := func() error { return peer.send(m.over, m.saved) }
	if command == "migrate-incoming" {
		ln, err := addr.Listen(m.over)
		if err != nil {
			return nil, err
		}
		run = func() error { return peer.receive(m.over, ln) }
	}
	m.doing.Go(func() {
		if err := run(); err != nil {
			m.set("", qmp.MigrationFailed)
			return
		}
		m.set(map[string]string{"migrate": qmp.StatePostmigrate, "migrate-incoming": qmp.StateRunning}[command], qmp.MigrationCompleted)
	})
	return nil, nil
}

// silence waits for as long as the client does.
func (m *hostileMonitor) silence(ctx context.Context) {
	m.impatient()
	select {
	case <-ctx.Done():
	case <-time.After(4 * hostileSilence):
	}
}
