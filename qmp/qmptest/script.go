package qmptest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/qmp"
)

// ErrNoAnswer is returned by a handler to leave a command unanswered.
var ErrNoAnswer = errors.New("no answer")

// Handler carries out a command. Its value is encoded as the answer (nil
// stands for {}). A [*qmp.Error] is sent as it is, another error as a
// GenericError, [ErrNoAnswer] not at all. The context ends when the client
// disconnects or QEMU dies.
type Handler func(ctx context.Context, args json.RawMessage) (any, error)

// Call is a command that arrived.
type Call struct {
	Command string
	Args    json.RawMessage // nil if there were none
	ID      json.RawMessage // as the client chose it
}

// script holds the handlers of a played QEMU, and the commands that arrived.
type script struct {
	mu       sync.Mutex
	handlers map[string]Handler
	calls    []Call
}

// Handle sets the handler of a command, in place of an earlier one.
func (s *script) Handle(command string, h Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handlers == nil {
		s.handlers = make(map[string]Handler)
	}
	s.handlers[command] = h
}

// Answer makes a command return a value.
func (s *script) Answer(command string, value any) {
	s.Handle(command, func(context.Context, json.RawMessage) (any, error) { return value, nil })
}

// Refuse makes a command fail with a GenericError.
func (s *script) Refuse(command, desc string) {
	s.Handle(command, func(context.Context, json.RawMessage) (any, error) { return nil, errors.New(desc) })
}

// Hang makes a command never end, so that no later command is answered.
func (s *script) Hang(command string) {
	s.Handle(command, func(ctx context.Context, _ json.RawMessage) (any, error) {
		<-ctx.Done()
		return nil, ErrNoAnswer
	})
}

// Calls returns all commands that arrived so far. Those over a socket begin with
// the negotiation.
func (s *script) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// call carries a command out.
func (s *script) call(ctx context.Context, c Call) (any, error) {
	s.mu.Lock()
	s.calls = append(s.calls, c)
	h := s.handlers[c.Command]
	s.mu.Unlock()
	if h == nil {
		return nil, &qmp.Error{Class: qmp.ClassCommandNotFound, Desc: fmt.Sprintf("The command %s has not been found", c.Command)}
	}
	return h(ctx, c.Args)
}

// refusal is a handler's error as QEMU's answer.
func refusal(command string, err error) *qmp.Error {
	if refused, ok := errors.AsType[*qmp.Error](err); ok {
		return &qmp.Error{Command: command, Class: refused.Class, Desc: refused.Desc}
	}
	return &qmp.Error{Command: command, Class: "GenericError", Desc: err.Error()}
}

func versionOr10(v qmp.Version) qmp.Version {
	if v == (qmp.Version{}) {
		return qmp.Version{Major: 10, Package: "qmptest"}
	}
	return v
}
