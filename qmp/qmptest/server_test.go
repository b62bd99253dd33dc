package qmptest_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

func TestServer_DieFreesABlockedHandler(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Handle("hang", func(ctx context.Context, _ json.RawMessage) (any, error) {
		go s.Die()
		<-ctx.Done()
		return nil, qmptest.ErrNoAnswer
	})
	c, err := qmp.Dial(t.Context(), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Execute(t.Context(), "hang", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if conn, err := net.Dial("unix", s.Path()); err == nil {
		conn.Close()
		t.Error("a dead server accepts connections")
	}
	if err := s.Emit("STOP", nil); err == nil {
		t.Error("a dead server emits events")
	}
}

func TestServer_ClientThatDisconnectsFreesABlockedHandler(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	left := make(chan struct{})
	s.Handle("wait", func(ctx context.Context, _ json.RawMessage) (any, error) {
		leave()
		<-ctx.Done()
		close(left)
		return nil, qmptest.ErrNoAnswer
	})
	c, err := qmp.Dial(t.Context(), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Execute(ctx, "wait", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	c.Close()
	select {
	case <-left:
	case <-time.After(5 * time.Minute):
		t.Error("the handler still waits for a client that has left")
	}
}

func TestServer_AnswerThatCannotBeEncoded(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Answer("x", make(chan int))
	c, err := qmp.Dial(t.Context(), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refusal *qmp.Error
	if err := c.Execute(t.Context(), "x", nil, nil); !errors.As(err, &refusal) {
		t.Errorf("got %v, want the mistake as a refusal", err)
	}
}
