package migration

import (
	"fmt"
	"sync/atomic"

	"github.com/vmferry/vmferry/vmstate"
)

// defaultStates is the default limit for the bytes of device state of a migration.
const defaultStates = 1 << 30

// stateBudget bounds the device state of one migration over all channels. A channel
// calls take before it allocates, so that many channels together cannot exceed the
// limit.
type stateBudget struct {
	limit uint64
	taken atomic.Uint64
}

func newStateBudget(most uint64) *stateBudget {
	if most == 0 {
		most = defaultStates
	}
	return &stateBudget{limit: most}
}

func (b *stateBudget) take(bytes int) error {
	if b.taken.Add(uint64(bytes)) > b.limit {
		return fmt.Errorf("%w: more than %d bytes of device state on all channels", vmstate.ErrMalformed, b.limit)
	}
	return nil
}

// destinationOptions returns the options of the main channel.
func destinationOptions(cfg *ReceiveConfig, states *stateBudget) vmstate.DestinationOptions {
	opts := cfg.Main
	if cfg.MaxMemory != 0 {
		opts.MaxMemory = cfg.MaxMemory
	}
	if given := opts.Budget; given == nil {
		opts.Budget = states.take
	} else {
		opts.Budget = func(bytes int) error {
			if err := states.take(bytes); err != nil {
				return err
			}
			return given(bytes)
		}
	}
	return opts
}
