package agreement

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/vmferry/vmferry/internal/strictjson"
	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/snapshot"
)

// ErrMalformed is wrapped by the error for a peer that does not speak this protocol.
var ErrMalformed = errors.New("malformed message of the other vmferry")

// MaxMessage bounds the length of a message in bytes.
const MaxMessage = 1 << 20

// Type is the type of a message: see the table of the package.
type Type string

// The types of messages.
const (
	TypeHello   Type = "hello"
	TypeAnswer  Type = "answer"
	TypePrepare Type = "prepare"
	TypeReady   Type = "ready"
	TypeLoaded  Type = "loaded"
	TypeRun     Type = "run"
	TypeOutcome Type = "outcome"
	TypeDone    Type = "done"
	TypeFailed  Type = "failed"
	TypeInquiry Type = "inquiry"
	typeAlive   Type = "alive"
)

// Outcome says what became of a machine that was handed over.
type Outcome string

const (
	// Runs says that the machine is the destination's: it runs there, or it is
	// paused there as it was at the source.
	Runs Outcome = "runs"
	// Stays says that the destination does not run the machine, and never will.
	Stays Outcome = "stays"
	// Unknown says that the destination does not know whether the machine runs there.
	Unknown Outcome = "unknown"
)

// Message is a message. The table of the package says which fields a type has.
type Message struct {
	Type        Type         `json:"type"`
	Description *Description `json:"description,omitempty"`
	Channels    int          `json:"channels,omitempty"`
	DryRun      bool         `json:"dry_run,omitempty"`
	Differences []string     `json:"differences,omitempty"`
	Remarks     []string     `json:"remarks,omitempty"`
	Token       Token        `json:"token,omitzero"`
	RunState    string       `json:"run_state,omitempty"`
	Run         bool         `json:"run,omitempty"`
	Outcome     Outcome      `json:"outcome,omitempty"`
	Reason      string       `json:"reason,omitempty"`
}

// check returns an error if a field that the type needs is missing or out of bounds.
func (m *Message) check() error {
	for _, text := range []struct {
		name, value string
		most        int
	}{{"run_state", m.RunState, maxText}, {"reason", m.Reason, maxReason}} {
		if len(text.value) > text.most {
			return fmt.Errorf("%s of %d bytes (at most %d)", text.name, len(text.value), text.most)
		}
	}
	for _, lines := range [][]string{m.Differences, m.Remarks} {
		if len(lines) > maxLines {
			return fmt.Errorf("%d differences (at most %d)", len(lines), maxLines)
		}
		for _, line := range lines {
			if len(line) > maxReason {
				return fmt.Errorf("difference of %d bytes (at most %d)", len(line), maxReason)
			}
		}
	}
	if m.Description != nil {
		if err := m.Description.check(); err != nil {
			return err
		}
	}
	switch m.Type {
	case TypeHello, TypeAnswer:
		if m.Description == nil {
			return errors.New("no description")
		}
		if m.Type == TypeHello && (m.Channels < 1 || m.Channels > multifd.MaxChannels) {
			return fmt.Errorf("%d channels (want 1 to %d)", m.Channels, multifd.MaxChannels)
		}
	case TypeReady, TypeInquiry:
		if m.Token == (Token{}) {
			return errors.New("no token")
		}
	case TypeOutcome:
		if m.Outcome != Runs && m.Outcome != Stays && m.Outcome != Unknown {
			return fmt.Errorf("unknown outcome %s", termtext.ShortName(string(m.Outcome), 64))
		}
	case TypeLoaded:
		if m.RunState == "" {
			return errors.New("no run_state")
		}
	case TypePrepare, TypeRun, TypeDone, TypeFailed, typeAlive:
	default:
		return fmt.Errorf("unknown type %s", termtext.ShortName(string(m.Type), 64))
	}
	return nil
}

// bounded returns the message with texts that the other side accepts.
func (m Message) bounded() Message {
	m.Reason = cut(m.Reason)
	m.Differences, m.Remarks = cutLines(m.Differences), cutLines(m.Remarks)
	return m
}

func cut(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason-3] + "..."
	}
	return s
}

func cutLines(lines []string) []string {
	lines = lines[:min(len(lines), maxLines)]
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = cut(line)
	}
	return out
}

// writeMessage writes a message in one call of Write.
func writeMessage(w io.Writer, m Message) error {
	m = m.bounded()
	if err := m.check(); err != nil {
		return fmt.Errorf("message %q: %w", m.Type, err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(text) > MaxMessage {
		return fmt.Errorf("message %q has %d bytes (at most %d)", m.Type, len(text), MaxMessage)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

// entries bounds lists, whose entries can take more memory than their text.
var entries = map[reflect.Type]int{
	reflect.TypeFor[[]string]():              maxEntries,
	reflect.TypeFor[[]Block]():               maxEntries,
	reflect.TypeFor[[]snapshot.DeviceInfo](): maxEntries,
	reflect.TypeFor[map[string]int]():        maxEntries,
	reflect.TypeFor[map[string]uint32]():     maxEntries,
}

// readMessage reads a message. Memory follows the bytes that arrive.
func readMessage(r io.Reader) (m Message, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return m, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxMessage {
		return m, fmt.Errorf("%w: %d bytes (at most %d)", ErrMalformed, n, MaxMessage)
	}
	text, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(text) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return m, err
	}
	err = strictjson.Unmarshal(text, &m, strictjson.Options{MaxBytes: MaxMessage, MaxDepth: 16, KnownKeysOnly: true, MaxEntries: entries})
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return Message{}, fmt.Errorf("%w: %s", ErrMalformed, termtext.Text(err.Error()))
	}
	return m, nil
}
