package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	iaaprobe "github.com/vmferry/vmferry/internal/probe/iaa"
)

// model makes stages of modelled devices.
type model struct {
	timing iaamodel.Timing
	seed   uint64
	costs  iaaprobe.Costs
}

// newModel prepares a probe that runs on a model with the given timing. It measures the costs
// that are 0 in cfg.
func newModel(ctx context.Context, cfg iaaprobe.Config, timing iaamodel.Timing, seed uint64) (*iaaprobe.Probe, *model, error) {
	m := &model{timing: timing, seed: seed}
	cfg.SetUp = m.setUp
	p, err := iaaprobe.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	p.Modelled = true
	if p.Costs.Driver == 0 {
		if p.Costs.Driver, err = driverCost(ctx); err != nil {
			return nil, nil, err
		}
	}
	m.costs, m.timing.Driver = p.Costs, p.Costs.Driver
	return p, m, nil
}

// stage is a stage with modelled devices and virtual time.
type stage struct {
	model   *model
	machine *iaamodel.Machine
	clock   *iaamodel.Clock
	dir     string
	dev     *iaa.Device   // nil without devices
	busy    time.Duration // of all engines before the run
}

func (m *model) setUp(ctx context.Context, row iaaprobe.Row) (iaaprobe.Stage, error) {
	s := &stage{model: m, clock: iaamodel.NewClock()}
	cfg := iaamodel.Uniform(row.Devices, func(d *iaamodel.Device) {
		d.Queues[0].BlockOnFault = row.Memory == iaaprobe.Blocked
	})
	cfg.Clock, cfg.Seed, cfg.Timing, cfg.Mapped = s.clock, m.seed, &m.timing, true
	var err error
	if s.dir, err = os.MkdirTemp("", "vmferry-iaa"); err != nil {
		return nil, err
	}
	if s.machine, err = iaamodel.New(s.dir, cfg); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if row.Devices > 0 {
		if s.dev, err = iaa.Open(ctx, s.machine.Options()); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

func (s *stage) Device() *iaa.Device { return s.dev }

func (s *stage) Codec(c hybrid.Codec) hybrid.Codec {
	return &charged{c, s.clock, s.model.costs.Compress, s.model.costs.Inflate}
}

func (s *stage) Now() time.Duration { return s.clock.Now() }

func (s *stage) Run(all ...func()) {
	s.busy = s.machine.Stats().Busy
	for _, f := range all {
		s.clock.Go(f)
	}
	s.clock.Run()
}

func (s *stage) Complete(row *iaaprobe.Row) {
	if row.Devices == 0 {
		return
	}
	engines := float64(row.Devices) * 8
	stats := s.machine.Stats()
	row.Busy = float64(stats.Busy-s.busy) / (engines * float64(row.Elapsed))
	row.Faults += int64(stats.Resolved)
}

func (s *stage) Close() error {
	var errs []error
	if s.dev != nil {
		errs = append(errs, s.dev.Close())
	}
	errs = append(errs, s.machine.Close(), os.RemoveAll(s.dir))
	for _, v := range s.machine.Violations() {
		errs = append(errs, errors.New(v))
	}
	return errors.Join(errs...)
}

// text returns the report as text: the assumptions of the model, and the tables.
func (m *model) text(p *iaaprobe.Probe) string {
	t := m.timing
	return fmt.Sprintf("Modelled, in virtual time; no hardware was involved.\n"+
		"Published: an engine takes %v + %.2f ns/byte, a device has 8 and delivers %.1f GB/s.\n"+
		"Taken for this machine: software compresses a page in %v and inflates one in %v; the driver takes %v a job.\n"+
		"Assumed: ENQCMD %v, touching a page %v, copying %.2f ns/byte; the network takes nothing.\n\n",
		t.Operation, t.PerByte, t.DeviceRate/1e9, m.costs.Compress, m.costs.Inflate, m.costs.Driver, t.Enqcmd, t.Touch, t.Copy) + p.Tables()
}
