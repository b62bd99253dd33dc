package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// dial connects to a server and hangs up when the test ends.
func dial(t *testing.T, s *qmptest.Server) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(t.Context(), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// soon is a context for calls that are not expected to succeed.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// echo answers with the arguments that it got.
func echo(_ context.Context, args json.RawMessage) (any, error) { return args, nil }

func TestExecute(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Handle("echo", echo)
	c := dial(t, s)

	type pair struct{ A, B int }
	var got pair
	if err := c.Execute(t.Context(), "echo", pair{1, 2}, &got); err != nil {
		t.Fatal(err)
	}
	if got != (pair{1, 2}) {
		t.Errorf("got %v back", got)
	}
	calls := s.Calls()
	if len(calls) != 2 || calls[0].Command != "qmp_capabilities" || calls[1].Command != "echo" {
		t.Errorf("calls: %+v, want negotiation and then echo", calls)
	}
	if calls[0].Args != nil {
		t.Errorf("negotiation carried arguments %s, want none", calls[0].Args)
	}
}

func TestExecute_FromManyGoroutines(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Handle("echo", echo)
	c := dial(t, s)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			var got struct{ N int }
			if err := c.Execute(t.Context(), "echo", map[string]int{"N": i}, &got); err != nil {
				t.Error(err)
			} else if got.N != i {
				t.Errorf("call %d got the answer of call %d", i, got.N)
			}
		})
	}
	wg.Wait()
}

func TestExecute_AnswersOutOfOrder(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Handle("later", func(context.Context, json.RawMessage) (any, error) { return nil, qmptest.ErrNoAnswer })
	// The second command answers the first one too, after itself.
	s.Handle("now", func(context.Context, json.RawMessage) (any, error) {
		calls := s.Calls()
		later, now := calls[len(calls)-2], calls[len(calls)-1]
		return nil, errors.Join(qmptest.ErrNoAnswer,
			s.SendRaw(fmt.Appendf(nil, `{"return":"now","id":%s}`+"\n", now.ID)),
			s.SendRaw(fmt.Appendf(nil, `{"return":"later","id":%s}`+"\n", later.ID)))
	})
	c := dial(t, s)

	later := make(chan string)
	go func() {
		var got string
		if err := c.Execute(t.Context(), "later", nil, &got); err != nil {
			t.Error(err)
		}
		later <- got
	}()
	for len(s.Calls()) < 2 {
		time.Sleep(time.Millisecond)
	}
	var now string
	if err := c.Execute(t.Context(), "now", nil, &now); err != nil {
		t.Fatal(err)
	}
	if got := <-later; got != "later" || now != "now" {
		t.Errorf("answers went to the wrong calls: now=%q later=%q", now, got)
	}
}

func TestExecute_Refusal(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Refuse("migrate", "Guest is waiting for an incoming migration\x1b[31m")
	c := dial(t, s)

	var refusal *qmp.Error
	if err := c.Migrate(t.Context(), "unix:/x"); !errors.As(err, &refusal) {
		t.Fatalf("got %v, want a *qmp.Error", err)
	}
	if refusal.Command != "migrate" || refusal.Class != "GenericError" {
		t.Errorf("got %+v", *refusal)
	}
	if text := refusal.Error(); !strings.Contains(text, "waiting for an incoming") || strings.Contains(text, "\x1b") {
		t.Errorf("error text %q: want QEMU's sentence without control characters", text)
	}
	err := c.Execute(t.Context(), "no-such", nil, nil)
	if !errors.As(err, &refusal) || refusal.Class != qmp.ClassCommandNotFound {
		t.Errorf("unknown command: %v, want class %s", err, qmp.ClassCommandNotFound)
	}
	if c.Err() != nil {
		t.Errorf("a refusal ended the connection: %v", c.Err())
	}
}

func TestExecute_WrongTypeOfAnswer(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Answer("query-status", map[string]any{"status": 7})
	c := dial(t, s)
	_, err := c.QueryStatus(t.Context())
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "query-status") {
		t.Errorf("got %v, want a type error that names the command", err)
	}
}

func TestExecute_ArgumentsThatCannotBeEncoded(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	c := dial(t, s)
	if err := c.Execute(t.Context(), "x", make(chan int), nil); err == nil {
		t.Error("no error")
	}
	if got := len(s.Calls()); got != 1 {
		t.Errorf("%d commands arrived, want only the negotiation", got)
	}
}

// A caller that gave up does not get the next caller's answer mixed up.
func TestExecute_LateAnswerIsDropped(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	release := make(chan struct{})
	s.Handle("slow", func(context.Context, json.RawMessage) (any, error) {
		<-release
		return "slow", nil
	})
	s.Answer("fast", "fast")
	c := dial(t, s)

	err := c.Execute(soon(t), "slow", nil, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "slow") {
		t.Fatalf("got %v, want a deadline error that names the command", err)
	}
	close(release)
	var got string
	if err := c.Execute(t.Context(), "fast", nil, &got); err != nil || got != "fast" {
		t.Errorf("next call: %q, %v", got, err)
	}
}

// A request that was cut short must not be continued by the next one.
func TestExecute_InterruptedSendEndsTheConnection(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Hang("hang")
	c := dial(t, s)
	c.Execute(soon(t), "hang", nil, nil)
	c.Execute(soon(t), "next", nil, nil) // the fake reads one request ahead, and then nothing

	// A deadline that ends before the first byte has gone leaves the
	// connection whole: then try one that leaves more time.
	var err error
	for wait := 100 * time.Millisecond; wait < time.Minute && !errors.Is(err, qmp.ErrClosed); wait *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		err = c.Execute(ctx, "big", strings.Repeat("x", 1<<20), nil)
		cancel()
	}
	if !errors.Is(err, qmp.ErrClosed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want ErrClosed because of the deadline", err)
	}
	if err := c.Execute(t.Context(), "after", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("next call: %v, want ErrClosed", err)
	}
}

func TestClient_QEMUDies(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Handle("die", func(context.Context, json.RawMessage) (any, error) {
		s.Die()
		return nil, qmptest.ErrNoAnswer
	})
	c := dial(t, s)
	events := c.Subscribe()
	for _, command := range []string{"die", "after"} {
		err := c.Execute(t.Context(), command, nil, nil)
		if !errors.Is(err, qmp.ErrClosed) || !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), command) {
			t.Errorf("%s: got %v, want ErrClosed and its cause", command, err)
		}
	}
	<-c.Done()
	if _, open := <-events.Events(); open {
		t.Error("an event after death")
	}
	if _, open := <-c.Subscribe().Events(); open {
		t.Error("a subscription made after death delivers")
	}
	if err := c.Err(); !errors.Is(err, io.EOF) {
		t.Errorf("Err: %v", err)
	}
}

// The last answer before the end is still an answer.
func TestExecute_QuitIsAnswered(t *testing.T) {
	for range 50 {
		s := qmptest.Start(t, qmptest.Config{})
		s.Handle("quit", func(context.Context, json.RawMessage) (any, error) {
			calls := s.Calls()
			err := s.SendRaw(fmt.Appendf(nil, `{"return":{},"id":%s}`+"\n", calls[len(calls)-1].ID))
			s.Die()
			return nil, errors.Join(qmptest.ErrNoAnswer, err)
		})
		if err := dial(t, s).Execute(t.Context(), "quit", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClient_Close(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Hang("hang")
	c := dial(t, s)
	waiting := make(chan error)
	go func() { waiting <- c.Execute(t.Context(), "hang", nil, nil) }()
	for len(s.Calls()) < 2 {
		time.Sleep(time.Millisecond)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	if err := <-waiting; !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("the call that waited: %v, want ErrClosed", err)
	}
	if err := c.Stop(t.Context()); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("a later call: %v, want ErrClosed", err)
	}
	// The monitor is free for the next client.
	dial(t, s)
}

func TestClient_HostilePeer(t *testing.T) {
	for name, line := range map[string]string{
		"no JSON":              `QEMU 10.0.2 monitor`,
		"not an object":        `[1,2]`,
		"nothing known":        `{"foo":1}`,
		"return and error":     `{"return":{},"error":{"class":"a","desc":"b"},"id":2}`,
		"error without id":     `{"error":{"class":"GenericError","desc":"JSON parse error"}}`,
		"return without id":    `{"return":{}}`,
		"id from the future":   `{"return":{},"id":3}`,
		"id zero":              `{"return":{},"id":0}`,
		"negative id":          `{"return":{},"id":-1}`,
		"id of another type":   `{"return":{},"id":"2"}`,
		"id out of range":      `{"return":{},"id":99999999999999999999}`,
		"second greeting":      `{"QMP":{"version":{"qemu":{"major":1}}}}`,
		"control characters":   "\x00\x01\x1b[31m",
		"nested without end":   strings.Repeat(`[`, 20000),
		"wrong type of event":  `{"event":5}`,
		"wrong timestamp type": `{"event":"STOP","timestamp":"now"}`,
		"a key twice":          `{"return":{},"id":2,"id":2}`,
		"a key twice inside":   `{"return":{"status":"running","status":"paused"},"id":2}`,
		"a key in other case":  `{"Return":{},"id":2}`,
		"a case of its own":    `{"return":{},"ID":2}`,
		"two values":           `{"return":{},"id":2} {"return":{},"id":2}`,
		"longer than allowed":  strings.Repeat(" ", qmp.MaxMessage+1),
	} {
		t.Run(name, func(t *testing.T) {
			s := qmptest.Start(t, qmptest.Config{})
			s.Hang("wait")
			c := dial(t, s)
			waiting := make(chan error)
			go func() { waiting <- c.Execute(t.Context(), "wait", nil, nil) }()
			for len(s.Calls()) < 2 {
				time.Sleep(time.Millisecond)
			}
			s.SendRaw([]byte(line + "\n")) // fails if the client hangs up halfway
			err := <-waiting
			if !errors.Is(err, qmp.ErrProtocol) || !errors.Is(err, qmp.ErrClosed) {
				t.Errorf("got %v, want ErrClosed because of ErrProtocol", err)
			}
			if text := err.Error(); strings.Contains(text, "\x1b") || len(text) > 2000 {
				t.Errorf("error text of %d bytes: %.100q", len(text), text)
			}
		})
	}
}

func TestClient_MessageIsCutShort(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Handle("die", func(context.Context, json.RawMessage) (any, error) {
		err := s.SendRaw([]byte(`{"return":{`))
		s.Die()
		return nil, errors.Join(qmptest.ErrNoAnswer, err)
	})
	err := dial(t, s).Execute(t.Context(), "die", nil, nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want ErrUnexpectedEOF", err)
	}
}

func TestClient_Process(t *testing.T) {
	c := dial(t, qmptest.Start(t, qmptest.Config{}))
	got, err := c.Process()
	if want := (qmp.Credentials{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid()}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestSetAnswerTimeout_SilentQEMU(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	s.Handle("hang", func(context.Context, json.RawMessage) (any, error) { return nil, qmptest.ErrNoAnswer })
	s.Answer("works", nil)
	c := dial(t, s)
	c.SetAnswerTimeout(20 * time.Millisecond)
	if err := c.Execute(t.Context(), "hang", nil, nil); !errors.Is(err, qmp.ErrSilent) {
		t.Errorf("got %v, want ErrSilent", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Execute(ended, "hang", nil, nil); errors.Is(err, qmp.ErrSilent) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the context ended", err)
	}
	c.SetAnswerTimeout(0)
	if err := c.Execute(t.Context(), "works", nil, nil); err != nil {
		t.Error(err)
	}
}
