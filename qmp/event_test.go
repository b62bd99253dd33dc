package qmp_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

func emit(t *testing.T, s *qmptest.Server, name string, data any) {
	t.Helper()
	if err := s.Emit(name, data); err != nil {
		t.Fatal(err)
	}
}

// awaitDelivery returns when the client has read all that was sent before.
func awaitDelivery(t *testing.T, s *qmptest.Server, c *qmp.Client) {
	t.Helper()
	s.Answer("sync", nil)
	if err := c.Execute(t.Context(), "sync", nil, nil); err != nil {
		t.Fatal(err)
	}
}

func TestSubscription_DeliversByName(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	c := dial(t, s)
	all, some := c.Subscribe(), c.Subscribe("MIGRATION", "STOP")
	emit(t, s, "RESUME", nil)
	emit(t, s, "MIGRATION", map[string]string{"status": "active"})
	emit(t, s, "STOP", nil)
	awaitDelivery(t, s, c)

	for _, want := range []string{"RESUME", "MIGRATION", "STOP"} {
		if e := <-all.Events(); e.Name != want {
			t.Errorf("all: %s, want %s", e.Name, want)
		}
	}
	e := <-some.Events()
	var data struct{ Status string }
	if err := e.Decode(&data); err != nil || e.Name != "MIGRATION" || data.Status != "active" {
		t.Errorf("got %s %+v, %v", e.Name, data, err)
	}
	if age := time.Since(e.Time); age < 0 || age > time.Minute {
		t.Errorf("the event is %v old", age)
	}
	if e = <-some.Events(); e.Name != "STOP" || e.Data != nil {
		t.Errorf("got %s with %s", e.Name, e.Data)
	}
	if err := e.Decode(&data); err == nil {
		t.Error("decoding data that is not there: no error")
	}
}

func TestSubscription_SlowReceiverLosesTheOldest(t *testing.T) {
	const sent = 1000
	s := qmptest.Start(t, qmptest.Config{})
	c := dial(t, s)
	sub := c.Subscribe()
	for i := range sent {
		emit(t, s, "E", i)
	}
	awaitDelivery(t, s, c) // the client was not held up

	received, last := uint64(0), -1
	for len(sub.Events()) > 0 {
		e := <-sub.Events()
		i := -1
		if err := e.Decode(&i); err != nil || i <= last {
			t.Fatalf("event %d after %d, %v", i, last, err)
		}
		last = i
		received++
	}
	if last != sent-1 {
		t.Errorf("the newest event was lost: the last is %d", last)
	}
	if sub.Lost() == 0 || received+sub.Lost() != sent {
		t.Errorf("%d received and %d lost of %d", received, sub.Lost(), sent)
	}
}

func TestSubscription_Close(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	c := dial(t, s)
	sub, other := c.Subscribe(), c.Subscribe()
	sub.Close()
	sub.Close()
	emit(t, s, "STOP", nil)
	if e, open := <-sub.Events(); open {
		t.Errorf("%s was delivered after Close", e.Name)
	}
	if e := <-other.Events(); e.Name != "STOP" {
		t.Errorf("the other subscription got %q", e.Name)
	}
}

// QEMU sends -1 when it cannot read its clock.
func TestEvent_WithoutClock(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	c := dial(t, s)
	sub := c.Subscribe()
	if err := s.SendRaw([]byte(`{"event":"STOP","timestamp":{"seconds":-1,"microseconds":-1}}` + "\n")); err != nil {
		t.Fatal(err)
	}
	if e := <-sub.Events(); !e.Time.IsZero() {
		t.Errorf("time %v, want zero", e.Time)
	}
}

// Events that come while a command is under way do not disturb its answer.
func TestEvent_ComesBeforeTheAnswer(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Handle("stop", func(context.Context, json.RawMessage) (any, error) { return nil, s.Emit("STOP", nil) })
	c := dial(t, s)
	sub := c.Subscribe("STOP")
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(sub.Events()) != 1 {
		t.Error("the event is not there when the command has returned")
	}
}
