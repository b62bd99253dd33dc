package qmptest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// Memory is a scripted QEMU without a socket. It is a [qmp.Opener] whose monitors
// call the handlers in this process, one command after the other.
type Memory struct {
	script
	version qmp.Version
	busy    chan struct{} // held by the command that is carried out

	mu       sync.Mutex
	dead     bool
	opened   int
	monitors map[*memoryMonitor]struct{}
}

// NewMemory makes a QEMU of that version, 10.0.0 if it is zero.
func NewMemory(version qmp.Version) *Memory {
	return &Memory{version: versionOr10(version), busy: make(chan struct{}, 1), monitors: make(map[*memoryMonitor]struct{})}
}

// Open opens a monitor. Several can be open at a time.
func (m *Memory) Open(ctx context.Context) (qmp.Monitor, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("qmptest: open: %w", context.Cause(ctx))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, fmt.Errorf("qmptest: open: %w", qmp.ErrNoQEMU)
	}
	m.opened++
	monitor := &memoryMonitor{qemu: m}
	monitor.ctx, monitor.end = context.WithCancel(context.Background())
	m.monitors[monitor] = struct{}{}
	return monitor, nil
}

// Opened returns how many monitors were opened so far.
func (m *Memory) Opened() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opened
}

// String names the monitor in messages.
func (m *Memory) String() string { return "memory" }

// MarshalJSON writes {"memory": true}, of which only this process can make
// something.
func (m *Memory) MarshalJSON() ([]byte, error) { return []byte(`{"memory":true}`), nil }

// Emit sends an event to all monitors. data may be nil.
func (m *Memory) Emit(name string, data any) error {
	e := qmp.Event{Name: name, Time: time.Now()}
	if data != nil {
		var err error
		if e.Data, err = json.Marshal(data); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for monitor := range m.monitors {
		monitor.events.Publish(e)
	}
	return nil
}

// Disconnect ends all monitors. QEMU lives on, and others can be opened.
func (m *Memory) Disconnect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for monitor := range m.monitors {
		monitor.end()
		monitor.events.Close()
	}
	clear(m.monitors)
}

// Die ends all monitors, as when QEMU is killed. A handler may call it.
func (m *Memory) Die() {
	m.mu.Lock()
	m.dead = true
	m.mu.Unlock()
	m.Disconnect()
}

// memoryMonitor is a monitor of a Memory.
type memoryMonitor struct {
	qemu   *Memory
	events qmp.Publisher
	ctx    context.Context // ends with the monitor
	end    context.CancelFunc
}

func (m *memoryMonitor) Execute(ctx context.Context, command string, args, result any) error {
	answer, err := m.call(ctx, command, args)
	if _, ok := errors.AsType[*qmp.Error](err); ok {
		return err
	}
	if err == nil && result != nil {
		err = json.Unmarshal(answer, result)
	}
	if err != nil {
		return fmt.Errorf("qmptest: %s: %w", command, err)
	}
	return nil
}

// call carries a command out and returns its answer as JSON.
func (m *memoryMonitor) call(ctx context.Context, command string, args any) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.ctx, func() { cancel(qmp.ErrClosed) })()
	call := Call{Command: command}
	if args != nil {
		var err error
		if call.Args, err = json.Marshal(args); err != nil {
			return nil, err
		}
	}
	select {
	case m.qemu.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, m.ended(ctx)
	}
	defer func() { <-m.qemu.busy }()
	if m.ctx.Err() != nil {
		return nil, qmp.ErrClosed
	}
	value, err := m.qemu.call(ctx, call)
	switch {
	case errors.Is(err, ErrNoAnswer):
		<-ctx.Done()
		return nil, m.ended(ctx)
	case m.ctx.Err() != nil:
		return nil, qmp.ErrClosed
	case err != nil:
		return nil, refusal(command, err)
	case value == nil:
		return []byte("{}"), nil
	}
	return json.Marshal(value)
}

// ended says why a call got no answer.
func (m *memoryMonitor) ended(ctx context.Context) error {
	if m.ctx.Err() != nil {
		return qmp.ErrClosed
	}
	return ctx.Err()
}

func (m *memoryMonitor) Subscribe(names ...string) *qmp.Subscription {
	return m.events.Subscribe(names...)
}

func (m *memoryMonitor) Version() qmp.Version { return m.qemu.version }

func (m *memoryMonitor) Process() (qmp.Credentials, error) {
	return qmp.Credentials{}, errors.New("qmptest: a QEMU in memory has no process")
}

func (m *memoryMonitor) Close() error {
	m.qemu.mu.Lock()
	delete(m.qemu.monitors, m)
	m.qemu.mu.Unlock()
	m.end()
	m.events.Close()
	return nil
}
