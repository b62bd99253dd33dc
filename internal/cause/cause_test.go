package cause

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/vmstate"
)

func TestOf_ChoosesTheErrorThatExplains(t *testing.T) {
	interrupted, refused, corrupt := errors.New("interrupted"), errors.New("refused"), errors.New("corrupt page")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted)
	closed, cancelClosed := context.WithCancelCause(t.Context())
	cancelClosed(fmt.Errorf("gathering: %w", net.ErrClosed))
	broken := fmt.Errorf("writing: %w", unix.EPIPE)
	closing := fmt.Errorf("reading: %w", net.ErrClosed)
	for _, tt := range []struct {
		name      string
		ctx       context.Context
		own, peer error
		want      string
	}{
		{"no error", t.Context(), nil, nil, "<nil>"},
		{"own alone", t.Context(), corrupt, nil, "corrupt page"},
		{"peer alone", t.Context(), nil, refused, "refused"},
		{"own beside the peer's", t.Context(), corrupt, refused, "corrupt page"},
		{"own is a consequence of the peer's", t.Context(), broken, refused, "refused (sending: writing: broken pipe)"},
		{"own is a consequence and the peer gives no reason", t.Context(), broken, nil, "writing: broken pipe"},
		{"own is a consequence of the context's end", ended, closing, nil, "interrupted"},
		{"own is a consequence of the context's end, beside the peer's", ended, closing, refused, "interrupted"},
		{"own is no consequence of the context's end", ended, corrupt, nil, "corrupt page"},
		{"the context ended by the closing itself", closed, closing, nil, "reading: use of closed network connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fmt.Sprint(Of(tt.ctx, tt.own, tt.peer, "sending")); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if err := Of(t.Context(), broken, refused, "sending"); !errors.Is(err, unix.EPIPE) || !errors.Is(err, refused) {
		t.Errorf("%v does not wrap both errors", err)
	}
}

func TestConnectionEnded_DistinguishesEndsFromReasons(t *testing.T) {
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, unix.ECONNRESET, unix.EPIPE, multifd.ErrTruncated, vmstate.ErrTruncated,
		&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}} {
		if !ConnectionEnded(fmt.Errorf("channel 1: %w", err)) {
			t.Errorf("%v is not taken for the end of a connection", err)
		}
	}
	for _, err := range []error{nil, multifd.ErrMalformed, vmstate.ErrRefused, context.Canceled, &net.OpError{Op: "write", Err: unix.ENOSPC}} {
		if ConnectionEnded(err) {
			t.Errorf("%v is taken for the end of a connection", err)
		}
	}
}
