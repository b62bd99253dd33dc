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

// Stage is what a run takes place on: devices, and time.
type Stage interface {
	// Device is nil in a run without devices.
	Device() *iaa.Device
	// Codec returns the codec that takes its time on this stage.
	Codec(hybrid.Codec) hybrid.Codec
	Now() time.Duration
	// Run calls all functions at once and returns when they have returned.
	Run(...func())
	// Complete adds to a row with results what only the stage knows.
	Complete(*Row)
	Close() error
}

// byClock is the stage of real devices, or of none.
type byClock struct {
	dev   *iaa.Device
	start time.Time
}

func (s *byClock) Device() *iaa.Device               { return s.dev }
func (s *byClock) Codec(c hybrid.Codec) hybrid.Codec { return c }
func (s *byClock) Now() time.Duration                { return time.Since(s.start) }
func (s *byClock) Complete(*Row)                     {}

func (s *byClock) Run(all ...func()) {
	var wg sync.WaitGroup
	for _, f := range all {
		wg.Go(f)
	}
	wg.Wait()
}

func (s *byClock) Close() error {
	if s.dev == nil {
		return nil
	}
	return s.dev.Close()
}

// Hardware returns a Config.SetUp that opens as many of the machine's devices as a row
// has.
func Hardware(options iaa.Options) func(context.Context, Row) (Stage, error) {
	return func(ctx context.Context, row Row) (Stage, error) {
		s := &byClock{start: time.Now()}
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
			return nil, errors.Join(fmt.Errorf("the machine has %d usable devices", len(seen)), s.dev.Close())
		}
		return s, nil
	}
}

// Numbers returns those of 1, 2 and 4 that the machine has devices for; none if it has
// no usable device.
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
