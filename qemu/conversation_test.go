package qemu

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vmferry/vmferry/qemu/agreement"
)

func TestWithReasonOfSource(t *testing.T) {
	load := fmt.Errorf("%w: load of migration failed", errLoad)
	failed := func(reason string) received {
		return received{Message: agreement.Message{Type: agreement.TypeFailed, Reason: reason}}
	}
	for name, tt := range map[string]struct {
		failure error
		says    received
		added   string
	}{
		"the source gave up":          {load, failed("the command failed"), "the command failed"},
		"the source repeats the load": {load, failed("destination: " + load.Error()), ""},
		"another failure":             {errSourceGone, failed("the command failed"), ""},
		"the connection broke":        {load, received{err: errors.New("reset")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := make(chan received, 1)
			in <- tt.says
			got := withReasonOfSource(tt.failure, tt.failure, in)
			want := tt.failure.Error()
			if tt.added != "" {
				want += " (the source gave up: " + tt.added + ")"
			}
			if got.Error() != want || !errors.Is(got, tt.failure) {
				t.Errorf("got %v, want %s", got, want)
			}
		})
	}
}
