package qmptest_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

func TestMemory_DisconnectFreesABlockedHandler(t *testing.T) {
	m := qmptest.NewMemory(qmp.Version{})
	m.Handle("hang", func(ctx context.Context, _ json.RawMessage) (any, error) {
		go m.Disconnect()
		<-ctx.Done()
		return nil, ctx.Err()
	})
	monitor, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	events := monitor.Subscribe()
	if err := monitor.Execute(t.Context(), "hang", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if _, open := <-events.Events(); open {
		t.Error("an event after the end")
	}
	if again, err := m.Open(t.Context()); err != nil || m.Opened() != 2 {
		t.Errorf("another monitor: %v; %d were opened", err, m.Opened())
	} else if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestMemory_CommandsWaitForOneAnother(t *testing.T) {
	m := qmptest.NewMemory(qmp.Version{})
	began, release := make(chan struct{}), make(chan struct{})
	m.Handle("slow", func(context.Context, json.RawMessage) (any, error) {
		close(began)
		<-release
		return nil, nil
	})
	m.Answer("fast", nil)
	monitor, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	slow := make(chan error, 1)
	go func() { slow <- monitor.Execute(t.Context(), "slow", nil, nil) }()
	<-began
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := monitor.Execute(ended, "fast", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if len(m.Calls()) != 1 {
		t.Errorf("%+v: a command was carried out beside another", m.Calls())
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	if err := monitor.Execute(t.Context(), "fast", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestMemory_ClosedMonitorExecutesNothing(t *testing.T) {
	m := qmptest.NewMemory(qmp.Version{})
	m.Answer("stop", nil)
	monitor, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(monitor.Close(), monitor.Close()); err != nil {
		t.Error(err)
	}
	if err := monitor.Execute(t.Context(), "stop", nil, nil); !errors.Is(err, qmp.ErrClosed) || len(m.Calls()) != 0 {
		t.Errorf("got %v after %d calls", err, len(m.Calls()))
	}
}
