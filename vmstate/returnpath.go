package vmstate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrRefused is wrapped when the destination says that it failed.
var ErrRefused = errors.New("the destination failed to load the machine")

// OpenReturnPath are the commands by which a source asks the destination to
// talk back: the return path itself, and a PING to see that it does.
func OpenReturnPath() []Command {
	return []Command{{ID: CmdOpenReturnPath}, Ping(1)}
}

// Ping is the command that a destination with a return path answers with the
// same value, once it has read everything before it.
func Ping(value uint32) Command {
	return Command{ID: CmdPing, Data: binary.BigEndian.AppendUint32(nil, value)}
}

// Word returns the value of a PING; ok is false for other commands.
func (c Command) Word() (value uint32, ok bool) {
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

// Pong answers the PING of that value.
func (w *ReplyWriter) Pong(value uint32) error {
	return w.message(replyPong, binary.BigEndian.AppendUint32(nil, value))
}

// Shut says how the migration went. It is the last message.
func (w *ReplyWriter) Shut(ok bool) error {
	code := make([]byte, 4)
	if !ok {
		code[3] = 1
	}
	return w.message(replyShut, code)
}

// SwitchoverAck lets a source with the capability switchover-ack switch over.
func (w *ReplyWriter) SwitchoverAck() error { return w.message(replySwitchoverAck, nil) }

func (w *ReplyWriter) message(kind uint16, data []byte) error {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	_, err := w.w.Write(append(b, data...))
	return err
}

// Reply is a message of the return path.
type Reply struct {
	// Shut says that it is the last word: how the loading went. Otherwise it
	// is a PONG, or, with Other set, something that a source can ignore.
	Shut, Other bool
	// Value is the PONG's, or SHUT's code: 0 for success.
	Value uint32
}

// ReadReply reads the next message of the return path.
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

// Err is what a SHUT means: nil for success.
func (r Reply) Err() error {
	if r.Value == 0 {
		return nil
	}
	return fmt.Errorf("return path: %w (SHUT %d; see its log)", ErrRefused, r.Value)
}

// AwaitShut reads the return path until the destination says how it went.
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
		return fmt.Errorf("return path: %w: the destination closed it without saying that it loaded (see its log)", ErrTruncated)
	}
	return fmt.Errorf("return path: %w", err)
}
