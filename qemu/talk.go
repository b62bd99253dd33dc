package qemu

import (
	"context"

	"github.com/vmferry/vmferry/internal/termtext"
	"github.com/vmferry/vmferry/qemu/agreement"
)

// received is a message of the other vmferry, or the end of the connection.
type received struct {
	agreement.Message
	err error
}

// receiveType receives a message of a type. failed makes the error of a message by which
// the other side says that it has failed.
func receiveType(ctx context.Context, conn *agreement.Conn, want agreement.Type, failed func(agreement.Message) error) (agreement.Message, error) {
	m, err := conn.Receive(ctx)
	switch {
	case err != nil:
		return m, err
	case m.Type == agreement.TypeFailed:
		return m, failed(m)
	case m.Type != want:
		return m, orderError(m.Type, want)
	}
	return m, nil
}

// makeDisplayable makes lines of the other side fit for a terminal, in place.
func makeDisplayable(lists ...[]string) {
	for _, lines := range lists {
		for i := range lines {
			lines[i] = termtext.Text(lines[i])
		}
	}
}

// receiveAll delivers the messages of a connection until it has delivered the end, or ctx
// ends.
func receiveAll(ctx context.Context, conn *agreement.Conn, to chan<- received) {
	for {
		m, err := conn.Receive(ctx)
		select {
		case to <- received{m, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}
