package migration

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestPace_DelaysByTheRate(t *testing.T) {
	const bandwidth, bytes = 100_000, 20_000
	p := NewPace(bandwidth)
	began := time.Now()
	for range 4 {
		if err := p.wait(t.Context(), bytes/4); err != nil {
			t.Fatal(err)
		}
	}
	// A fiftieth of a second's worth may come at once.
	if took, least := time.Since(began), time.Second*(bytes-bandwidth/50)/bandwidth; took < least-10*time.Millisecond {
		t.Errorf("%d bytes took %v at %d bytes a second (want %v)", bytes, took, bandwidth, least)
	}
}

func TestPace_LiftEndsAllWaits(t *testing.T) {
	p := NewPace(1)
	const waiting = 8
	done := make(chan error, waiting)
	for range waiting {
		go func() { done <- p.wait(context.WithoutCancel(t.Context()), 1<<40) }()
	}
	p.Lift()
	p.Lift()
	for range waiting {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the waiting goes on")
		}
	}
	if err := p.wait(t.Context(), 1<<50); err != nil {
		t.Error(err)
	}
}

func TestPace_ContextEndsTheWaitWithItsCause(t *testing.T) {
	cause := errors.New("the cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := NewPace(1).wait(ctx, 1<<40); !errors.Is(err, cause) {
		t.Error(err)
	}
}

func TestPace_NilDoesNotLimit(t *testing.T) {
	p := NewPace(0)
	p.Lift()
	if err := p.wait(t.Context(), 1<<60); err != nil {
		t.Error(err)
	}
}
