package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/vmferry/vmferry/internal/strictjson"
)

// MaxMessage is the longest line in bytes that a Client accepts. The longest line
// that QEMU sends in practice (query-qmp-schema) is about 200 KiB.
const MaxMessage = 16 << 20

// maxDepth is how deep a message may be nested: QEMU accepts the same depth.
const maxDepth = 1024

// request is an outgoing command.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// message is an incoming message. Exactly one of Greeting, Event, Return and Err is
// set.
type message struct {
	Greeting  *greeting       `json:"QMP"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp timestamp       `json:"timestamp"`
	Return    json.RawMessage `json:"return"`
	Err       *errorBody      `json:"error"`
	ID        json.RawMessage `json:"id"`
}

type greeting struct {
	Version struct {
		QEMU    Version `json:"qemu"`
		Package string  `json:"package"`
	} `json:"version"`
}

type timestamp struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

// time returns the zero time for a clock that QEMU could not read (it sends -1).
func (t timestamp) time() time.Time {
	if t.Seconds <= 0 || t.Microseconds < 0 || t.Microseconds >= 1e6 {
		return time.Time{}
	}
	return time.Unix(t.Seconds, t.Microseconds*1000)
}

type errorBody struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// parseMessage decodes one line and checks that it is exactly one kind of
// message.
func parseMessage(line []byte) (message, error) {
	var m message
	if err := strictjson.Unmarshal(line, &m, strictjson.Options{MaxBytes: MaxMessage, MaxDepth: maxDepth}); err != nil {
		return message{}, fmt.Errorf("%w: %v in %q", ErrProtocol, err, printable(string(line)))
	}
	kinds := 0
	for _, is := range []bool{m.Greeting != nil, m.Event != "", m.Return != nil, m.Err != nil} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, fmt.Errorf("%w: want one of greeting, event, return and error, found %d of them in %q",
			ErrProtocol, kinds, printable(string(line)))
	}
	return m, nil
}

// requestID returns the number of the request that an answer belongs to.
func (m *message) requestID() (uint64, error) {
	if m.ID == nil {
		// QEMU leaves the id out when it could not parse the request at all.
		if m.Err != nil {
			return 0, fmt.Errorf("%w: error without an id: %s", ErrProtocol, printable(m.Err.Desc))
		}
		return 0, fmt.Errorf("%w: return without an id", ErrProtocol)
	}
	id, err := strconv.ParseUint(string(m.ID), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: answer with id %q, which was never sent", ErrProtocol, printable(string(m.ID)))
	}
	return id, nil
}

// readLine reads up to the next newline and returns the line without it.
// It skips empty lines, and never holds more than limit bytes.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	for {
		line, err := readRawLine(r, limit)
		if err != nil {
			return nil, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return line, nil
		}
	}
}

func readRawLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, fmt.Errorf("%w: a message longer than %d bytes", ErrProtocol, limit)
		}
		// The buffer belongs to r and is overwritten by the next read.
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(line)) > 0:
			return nil, fmt.Errorf("connection ended within a message: %w", io.ErrUnexpectedEOF)
		default:
			return nil, err
		}
	}
}
