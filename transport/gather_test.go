package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestGather_LastRefusedConnectionIsQuotedIfNoSourceConnects(t *testing.T) {
	a := &Acceptor{cfg: &AcceptConfig{Channels: 2, Logger: slog.New(slog.DiscardHandler)}}
	a.logRefusal(errors.New("TLS: its certificate is of another authority"))
	err := (&gathering{acc: a}).timeoutError(fmt.Errorf("%w within 2m0s", ErrNoSource))
	if !errors.Is(err, ErrNoSource) || !strings.Contains(err.Error(), "another authority") {
		t.Errorf("error %v", err)
	}
}
