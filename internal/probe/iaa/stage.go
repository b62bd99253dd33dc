package iaaprobe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
)

// Stage provides the devices and the clock of a run.
type Stage interface {
	// Device returns the devices, nil in a run without devices.
	Device() *iaa.Device
	// Codec returns a codec whose work takes time on the clock of this stage.
	Codec(hybrid.Codec) hybrid.Codec
	Now() time.Duration
	// Run calls all functions concurrently and waits for them.
	Run(...func())
	// Complete sets the fields of a measured row that only the stage can measure.
	Complete(*Row)
	Close() error
}

// hardwareStage is the stage of the machine's devices, or of none.
type hardwareStage struct {
	dev   *iaa.Device
	start time.Time
}

func (s *hardwareStage) Device() *iaa.Device               { return s.dev }
func (s *hardwareStage) Codec(c hybrid.Codec) hybrid.Codec { return c }
func (s *hardwareStage) Now() time.Duration                { return time.Since(s.start) }
func (s *hardwareStage) Complete(*Row)                     {}

func (s *hardwareStage) Run(all ...func()) {
	var wg sync.WaitGroup
	for _, f := range all {
		wg.Go(f)
	}
	wg.Wait()
}

func (s *hardwareStage) Close() error {
	if s.dev == nil {
		return nil
	}
	return s.dev.Close()
}

// Hardware returns a Config.SetUp that opens the number of the machine's devices that a row
// needs.
func Hardware(options iaa.Options) func(context.Context, Row) (Stage, error) {
	return func(ctx context.Context, row Row) (Stage, error) {
		s := &hardwareStage{start: time.Now()}
		if row.Devices == 0 {
			return s, nil
		}
		opts := options
		opts.NoBlockOnFault = row.Memory != Blocked
		seen := map[string]bool{}
		opts.Filter = func(q iaa.QueueInfo) bool {
			if options.Filter != nil && !options.Filter(q) || !seen[q.Device] && len(seen) == row.Devices {
				return false
			}
			seen[q.Device] = true
			return true
		}
		var err error
		if s.dev, err = iaa.Open(ctx, opts); err != nil {
			return nil, err
		}
		if len(seen) < row.Devices {
			return nil, errors.Join(fmt.Errorf("the machine has %d usable devices (want %d)", len(seen), row.Devices), s.dev.Close())
		}
		return s, nil
	}
}

// Numbers returns the numbers of devices to measure: those of 1, 2 and 4 that are at most the
// number of usable devices of the machine.
func Numbers(ctx context.Context, opts iaa.Options) []int {
	dev, err := iaa.Open(ctx, opts)
	if err != nil {
		return nil
	}
	defer dev.Close()
	seen := map[string]bool{}
	for _, q := range dev.Queues() {
		seen[q.Device] = true
	}
	var numbers []int
	for n := 1; n <= min(4, len(seen)); n *= 2 {
		numbers = append(numbers, n)
	}
	return numbers
}
