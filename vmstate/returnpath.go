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
	return []Command{{ID: CmdOpenReturnPath}, {ID: CmdPing, Data: []byte{0, 0, 0, 1}}}
}

// AwaitShut reads the return path until the destination says how it went.
func AwaitShut(r io.Reader) error {
	var head [4]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return returnPathEnd(err)
		}
		kind, n := binary.BigEndian.Uint16(head[:]), binary.BigEndian.Uint16(head[2:])
		data := make([]byte, n)
		if _, err := io.ReadFull(r, data); err != nil {
			return returnPathEnd(err)
		}
		switch kind {
		case replyPong, replySwitchoverAck:
		case replyShut:
			if n != 4 {
				return fmt.Errorf("return path: %w: SHUT of %d bytes", ErrMalformed, n)
			}
			if code := binary.BigEndian.Uint32(data); code != 0 {
				return fmt.Errorf("return path: %w (SHUT %d; see its log)", ErrRefused, code)
			}
			return nil
		default:
			return fmt.Errorf("return path: %w: message %d", ErrMalformed, kind)
		}
	}
}

func returnPathEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("return path: %w: the destination closed it without saying that it loaded (see its log)", ErrTruncated)
	}
	return fmt.Errorf("return path: %w", err)
}
