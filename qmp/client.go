package qmp

import (
	"context"
	"fmt"
)

// Client is a [Machine] behind a QMP socket. [Dial] makes one.
type Client struct {
	*Machine
	conn *connection
}

// Dial connects to the QMP monitor on the unix socket at path, reads the
// greeting and leaves negotiation mode. The context bounds Dial only, not the
// life of the Client.
//
// The error wraps [ErrBusy] if the socket sends no greeting, [ErrProtocol] if the
// answer is not QMP, [ErrNoQEMU] if QEMU does not listen, and the operating
// system's error if there is no connection at all.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Client{Machine: NewMachine(conn), conn: conn}, nil
}

// Done is closed when the connection has ended, by either side. So a program
// learns that QEMU died while no call is under way.
func (c *Client) Done() <-chan struct{} { return c.conn.done }

// Err returns nil while the connection stands, and afterwards an error that
// wraps [ErrClosed] and the cause.
func (c *Client) Err() error {
	if err := c.conn.ended(); err != nil {
		return fmt.Errorf("qmp: %w", err)
	}
	return nil
}
