package qemu

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/internal/cause"
)

func TestPauseWatch_NoticesAMachineThatRan(t *testing.T) {
	for name, tt := range map[string]struct {
		state  string
		events []string
		moved  bool
	}{
		"stands still":             {"postmigrate", nil, false},
		"stopped once more":        {"paused", []string{"STOP"}, false},
		"runs":                     {"running", nil, true},
		"sleeps":                   {"suspended", nil, true},
		"ran and was paused again": {"paused", []string{"RESUME", "STOP"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := machine(tt.state)
			w := watchPause(vmOf(t, s))
			defer w.close()
			for _, e := range tt.events {
				if err := s.Emit(e, nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.check(t.Context()); errors.Is(err, errResumed) != tt.moved || !tt.moved && err != nil {
				t.Errorf("check: %v, want that the machine ran: %v", err, tt.moved)
			}
		})
	}
}

func TestGuard_KilledGuardIsNotReportedAsQEMUsEnd(t *testing.T) {
	g := &Guard{stdin: brokenPipe{}}
	err := g.sendRecovery(&recovery{})
	if err == nil || cause.ConnectionEnded(err) {
		t.Errorf("%v is taken for QEMU's end of the connection", err)
	}
}

// brokenPipe is the standard input of a process that has ended.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, unix.EPIPE }
func (brokenPipe) Close() error              { return nil }
