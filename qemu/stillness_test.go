package qemu

import (
	"errors"
	"testing"

	"github.com/vmferry/vmferry/qmp"
)

func TestStillness_MachineThatWasLetRunIsNoticed(t *testing.T) {
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
			s := machine(t, tt.state)
			c, err := qmp.Dial(t.Context(), s.Path())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			w := watchStillness(c)
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
