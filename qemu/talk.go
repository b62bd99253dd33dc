package qemu

import (
	"context"

	"github.com/vmferry/vmferry/qemu/agreement"
)

// received is a message of the other vmferry, or the end of the connection.
type received struct {
	agreement.Message
	err error
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
