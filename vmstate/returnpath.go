package vmstate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrRefused is wrapped when the destination reports a failure by SHUT.
var ErrRefused = errors.New("the destination failed to load the machine")

// OpenReturnPath returns the commands with which a source opens the return path:
// OPEN_RETURN_PATH, and a PING to check that the destination replies.
func OpenReturnPath() []Command {
	return []Command{{ID: CmdOpenReturnPath}, Ping(1)}
}

// Ping returns a PING command. A destination with a return path answers with a PONG of
// the same value when it has read everything before the PING.
func Ping(value uint32) Command {
	return Command{ID: CmdPing, Data: binary.BigEndian.AppendUint32(nil, value)}
}

// PingValue returns the value of a PING; ok is false for other commands.
func (c Command) PingValue() (value uint32, ok bool) {
	if c.ID != CmdPing || len(c.Data) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(c.Data), true
}

// ReplyWriter writes the return path, from the destination to the source.
type ReplyWriter struct{ w io.Writer }

// NewReplyWriter returns a writer of the return path to w; nil if w is nil.
func NewReplyWriter(w io.Writer) *ReplyWriter {
	if w == nil {
		return nil
	}
	return &ReplyWriter{w}
}

// Pong writes a PONG, the answer to the PING of the same value.
func (w *ReplyWriter) Pong(value uint32) error {
	return w.message(replyPong, binary.BigEndian.AppendUint32(nil, value))
}

// Shut writes SHUT, the last message: code 0 if ok, else 1.
func (w *ReplyWriter) Shut(ok bool) error {
	code := make([]byte, 4)
	if !ok {
		code[3] = 1
	}
	return w.message(replyShut, code)
}

// SwitchoverAck writes SWITCHOVER_ACK, for which a source with the capability
// switchover-ack waits before it switches over.
func (w *ReplyWriter) SwitchoverAck() error { return w.message(replySwitchoverAck, nil) }

func (w *ReplyWriter) message(kind uint16, data []byte) error {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	_, err := w.w.Write(append(b, data...))
	return err
}

// Reply is a message of the return path.
type Reply struct {
	// Shut is set for SHUT, the last message, and Other for a message that a
	// source can ignore. If neither is set, the message is a PONG.
	Shut, Other bool
	// Value is the PONG's value, or SHUT's code: 0 is success.
	Value uint32
}

// ReadReply reads the next message of the return path. Its error wraps ErrTruncated if
// the destination closes the connection.
func ReadReply(r io.Reader) (Reply, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Reply{}, returnPathEnd(err)
	}
	kind, n := binary.BigEndian.Uint16(head[:]), binary.BigEndian.Uint16(head[2:])
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return Reply{}, returnPathEnd(err)
	}
	switch kind {
	case replySwitchoverAck:
		return Reply{Other: true}, nil
	case replyPong, replyShut:
		if n != 4 {
			return Reply{}, fmt.Errorf("return path: %w: message %d of %d bytes", ErrMalformed, kind, n)
		}
		return Reply{Shut: kind == replyShut, Value: binary.BigEndian.Uint32(data)}, nil
	}
	return Reply{}, fmt.Errorf("return path: %w: message %d", ErrMalformed, kind)
}

// Err returns the result in a SHUT: nil for success, else an error that wraps
// ErrRefused.
func (r Reply) Err() error {
	if r.Value == 0 {
		return nil
	}
	return fmt.Errorf("return path: %w (SHUT %d; see the destination's log)", ErrRefused, r.Value)
}

// AwaitShut reads the return path up to SHUT and returns the result.
func AwaitShut(r io.Reader) error {
	for {
		reply, err := ReadReply(r)
		if err != nil {
			return err
		}
		if reply.Shut {
			return reply.Err()
		}
	}
}

func returnPathEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("return path: %w: the destination closed it before SHUT (see the destination's log)", ErrTruncated)
	}
	return fmt.Errorf("return path: %w", err)
}
