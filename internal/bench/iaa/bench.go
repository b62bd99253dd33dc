package iaabench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// Page geometry of the runs, as QEMU's multifd has it.
const (
	PageSize    = 4096
	PacketPages = 128
)

// Config says what to measure. Codec is required, everything else has a default.
type Config struct {
	// Codec makes the software path of one channel.
	Codec func() hybrid.Codec
	// Devices are the numbers of devices to measure with: 1, 2 and 4.
	Devices []int
	// Channels is the number of channels, each with a goroutine of its own: 8.
	Channels int
	// Packets is the number of packets a channel carries in each run: 64. Runs
	// into absent memory carry 16 at most, since every page is new there.
	Packets int
	// Pages is what they are filled with, over and over; generated if empty.
	Pages [][]byte
	// CPU is the processor's budget in the hybrid runs: 1, all it can get.
	CPU float64
	// Huffman chooses the tables of the device.
	Huffman iaa.Huffman
	// CPUCompress and CPUInflate are what software takes for a page, and Driver
	// what the driver's own work for a job takes, in virtual time. What is 0 is
	// measured.
	CPUCompress, CPUInflate, Driver time.Duration
	// Timing is the model's; nil is the published one.
	Timing *iaamodel.Timing
	// Seed drives the model.
	Seed uint64
	// Hardware, if set, measures these devices by the clock in place of a model.
	Hardware *iaa.Options
	// Progress, if set, hears of every run as it ends.
	Progress func(Row)
}

func (c Config) withDefaults() (Config, error) {
	if c.Codec == nil {
		return c, errors.New("iaabench: no codec")
	}
	if len(c.Devices) == 0 {
		c.Devices = []int{1, 2, 4}
	}
	if c.Channels == 0 {
		c.Channels = 8
	}
	if c.Packets == 0 {
		c.Packets = 64
	}
	if c.CPU == 0 {
		c.CPU = 1
	}
	if c.Timing == nil {
		t := iaamodel.PublishedTiming
		c.Timing = &t
	}
	if len(c.Pages) == 0 {
		c.Pages = Generate(512, c.Seed)
	}
	for i, p := range c.Pages {
		if len(p) != PageSize {
			return c, fmt.Errorf("iaabench: page %d has %d bytes: want %d", i, len(p), PageSize)
		}
	}
	for _, n := range append([]int{c.Channels, c.Packets}, c.Devices...) {
		if n < 1 || n > 4096 {
			return c, fmt.Errorf("iaabench: %d devices, channels or packets: want 1 to 4096", n)
		}
	}
	return c, nil
}

// Generate makes n pages of lines of text with noise; one in eight is random and
// does not shrink.
func Generate(n int, seed uint64) [][]byte {
	rng := rand.New(rand.NewPCG(seed, 0xbe9c))
	out := make([][]byte, n)
	for i := range out {
		p := make([]byte, PageSize)
		if i%8 == 7 {
			for k := range p {
				p[k] = byte(rng.Uint32())
			}
		} else {
			line := fmt.Sprintf("entry %08x of table %d: ", rng.Uint32(), rng.IntN(100))
			for k := 0; k < len(p); {
				k += copy(p[k:], line)
			}
			for range rng.IntN(400) {
				p[rng.IntN(len(p))] = byte(rng.Uint32())
			}
		}
		out[i] = p
	}
	return out
}

// Direction is what the pages undergo.
type Direction string

// Directions.
const (
	Compress Direction = "compress"
	Inflate  Direction = "inflate"
)

// Mode is who works.
type Mode string

// Modes.
const (
	CPUOnly      Mode = "cpu"
	HardwareOnly Mode = "hardware"
	Hybrid       Mode = "hybrid"
)

// Memory is the state of the memory the device writes to.
type Memory string

// States: present, absent with faults reported to the driver, absent with a
// device that waits for the kernel, and absent with pages that are inflated to
// prefaulted buffers and copied.
const (
	Present Memory = "present"
	Absent  Memory = "absent"
	Blocked Memory = "absent, device waits"
	Bounced Memory = "absent, bounced"
)

// Row is the result of one run.
type Row struct {
	Direction Direction     `json:"direction"`
	Mode      Mode          `json:"mode"`
	Devices   int           `json:"devices"`
	Memory    Memory        `json:"memory"`
	Pages     int           `json:"pages"`
	Elapsed   time.Duration `json:"elapsed_ns"`
	Rate      float64       `json:"bytes_per_second"` // of uncompressed pages
	// Busy is the part of the engines' time that was spent on jobs; 0 if unknown.
	Busy     float64 `json:"busy,omitempty"`
	Faults   int64   `json:"faults"` // reported to the driver, or waited for by devices
	Hardware float64 `json:"hardware_share"`
	Software float64 `json:"software_share"`
}

// Report is all that was measured, and what it rests on.
type Report struct {
	Modelled    bool             `json:"modelled"`
	Channels    int              `json:"channels"`
	Timing      *iaamodel.Timing `json:"timing,omitempty"`
	CPUCompress time.Duration    `json:"cpu_compress_ns"` // a page
	CPUInflate  time.Duration    `json:"cpu_inflate_ns"`
	Driver      time.Duration    `json:"driver_ns"` // the driver's work for a job
	Rows        []Row            `json:"rows"`
}

// Run measures everything.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &bench{cfg: cfg, report: Report{Modelled: cfg.Hardware == nil, Channels: cfg.Channels}}
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	for _, dir := range []Direction{Compress, Inflate} {
		if err := b.measure(ctx, Row{Direction: dir, Mode: CPUOnly, Memory: Present}); err != nil {
			return nil, err
		}
		memories := []Memory{Present, Absent}
		if dir == Inflate {
			memories = append(memories, Blocked, Bounced)
		}
		for _, n := range b.cfg.Devices {
			for _, mem := range memories {
				for _, mode := range []Mode{HardwareOnly, Hybrid} {
					if mem != Present && mode == Hybrid {
						continue // the question there is what faults cost
					}
					if err := b.measure(ctx, Row{Direction: dir, Mode: mode, Devices: n, Memory: mem}); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	return &b.report, nil
}

// Find returns the row of a run.
func (r *Report) Find(dir Direction, mode Mode, devices int, mem Memory) (Row, bool) {
	i := slices.IndexFunc(r.Rows, func(x Row) bool {
		return x.Direction == dir && x.Mode == mode && x.Devices == devices && x.Memory == mem
	})
	if i < 0 {
		return Row{}, false
	}
	return r.Rows[i], true
}

// Gain is what the processor adds to the devices in hybrid mode, as a part of
// what it does alone: 1 means that nothing is lost by working side by side.
func (r *Report) Gain(dir Direction, devices int) float64 {
	cpu, ok1 := r.Find(dir, CPUOnly, 0, Present)
	hw, ok2 := r.Find(dir, HardwareOnly, devices, Present)
	both, ok3 := r.Find(dir, Hybrid, devices, Present)
	if !ok1 || !ok2 || !ok3 || cpu.Rate == 0 {
		return 0
	}
	return (both.Rate - hw.Rate) / cpu.Rate
}
