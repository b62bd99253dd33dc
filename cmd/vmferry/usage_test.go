package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestBlameSignal_CommandThatASignalEndedSaysSo(t *testing.T) {
	cut := fmt.Errorf("qmp: query-status: no answer from QEMU: %w", context.Canceled)
	died := errors.New("QEMU went away")
	for name, tt := range map[string]struct {
		cause, err error
		status     int
	}{
		"a wait that the signal cut": {fmt.Errorf("%w by hangup", errSignal), cut, exitInterrupted},
		"a failure of its own":       {fmt.Errorf("%w by hangup", errSignal), died, exitFailed},
		"a context without a signal": {nil, cut, exitFailed},
		"a command that went well":   {fmt.Errorf("%w by hangup", errSignal), nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(tt.cause)
			err := (&app{ctx: ctx}).blameSignal(tt.err)
			if got := exitStatus(err); got != tt.status {
				t.Errorf("%v: exit status %d, want %d", err, got, tt.status)
			}
			if tt.status == exitInterrupted && !strings.HasPrefix(err.Error(), "interrupted by hangup") {
				t.Errorf("%q does not begin with the signal", err)
			}
		})
	}
}
