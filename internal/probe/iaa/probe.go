package iaaprobe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/internal/corpus"
)

// Page geometry of the runs, as QEMU's multifd has it.
const (
	PageSize    = corpus.PageSize
	PacketPages = 128
)

// Config configures a probe. Codec is required.
type Config struct {
	// Codec makes the software codec of one channel.
	Codec func() hybrid.Codec
	// SetUp makes the stage of a run; the default is Hardware with default options.
	SetUp func(context.Context, Row) (Stage, error)
	// Devices are the numbers of devices to measure with. If Devices is empty, only
	// the processor is measured.
	Devices []int
	// Channels is the number of channels, each with a goroutine of its own; the
	// default is 8.
	Channels int
	// Packets is the number of packets of a channel in each run; the default is 64.
	// Runs into absent memory have at most 16 packets, because each page needs new
	// memory.
	Packets int
	// CPU is the processor's budget in the hybrid runs; the default is 1, no limit.
	CPU float64
	// Huffman chooses the tables of the device.
	Huffman iaa.Huffman
	// Costs are the times of software. New measures Compress and Inflate if they are 0.
	Costs Costs
	// Budget is the time that New and Run may take together; the default is DefaultBudget.
	// If a row would take longer than its part of the budget, it has fewer pages.
	Budget time.Duration
	// Progress, if set, is called before each pass of a row.
	Progress func(Progress)
	// Now is the clock of the budget; the default is the time of the process.
	Now func() time.Duration
}

// Costs are the times of work in software.
type Costs struct {
	Compress time.Duration `json:"cpu_compress_ns"` // for a page
	Inflate  time.Duration `json:"cpu_inflate_ns"`  // for a page
	Driver   time.Duration `json:"driver_ns"`       // of the driver for a job; 0 if it is not known
}

// Direction is the operation on the pages.
type Direction string

// Directions.
const (
	Compress Direction = "compress"
	Inflate  Direction = "inflate"
)

// Mode says whether the processor, the devices, or both do the work.
type Mode string

// Modes.
const (
	CPUOnly      Mode = "cpu"
	HardwareOnly Mode = "hardware"
	Hybrid       Mode = "hybrid"
)

// Memory is the state of the memory that the device writes to.
type Memory string

// States of memory.
const (
	Present Memory = "present"
	Absent  Memory = "absent"               // the device reports faults to the driver
	Blocked Memory = "absent, device waits" // the device waits for the kernel
	Bounced Memory = "absent, bounced"      // pages are inflated to prefaulted buffers and copied
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
	// Busy is the share of the engines' time that they spent on jobs; 0 if unknown.
	Busy     float64 `json:"busy,omitempty"`
	Faults   int64   `json:"faults"` // that devices reported to the driver or waited for
	Hardware float64 `json:"hardware_share"`
	Software float64 `json:"software_share"`
}

// Report has all rows, and the costs that they depend on. Its JSON keys are a contract with
// users of the command.
type Report struct {
	Modelled bool `json:"modelled"`
	Channels int  `json:"channels"`
	Costs
	Rows []Row `json:"rows"`
}

// Probe is a measurement in progress.
type Probe struct {
	Report
	cfg     Config
	began   time.Duration
	pages   [][]byte
	streams [][]byte // of the pages that shrink
	plain   [][]byte // the pages that the streams inflate to
}

// software is an encoder and a decoder as one codec.
type software struct {
	*deflate.Encoder
	*deflate.Decoder
}

// NewSoftwareCodec returns the fast software codec, for Config.Codec.
func NewSoftwareCodec() hybrid.Codec {
	return software{deflate.NewEncoder(deflate.Fast), deflate.NewDecoder()}
}

// New makes the pages and streams, and measures the costs of software on this machine.
func New(cfg Config) (*Probe, error) {
	if cfg.Codec == nil {
		return nil, errors.New("iaaprobe: no codec")
	}
	if cfg.SetUp == nil {
		cfg.SetUp = Hardware(iaa.Options{})
	}
	cfg.Channels, cfg.Packets, cfg.CPU = cmp.Or(cfg.Channels, 8), cmp.Or(cfg.Packets, 64), cmp.Or(cfg.CPU, 1)
	cfg.Budget = cmp.Or(cfg.Budget, DefaultBudget)
	for _, n := range append([]int{cfg.Channels, cfg.Packets}, cfg.Devices...) {
		if n < 1 || n > 4096 {
			return nil, fmt.Errorf("iaaprobe: %d devices, channels or packets: want 1 to 4096", n)
		}
	}
	if cfg.Now == nil {
		start := time.Now()
		cfg.Now = func() time.Duration { return time.Since(start) }
	}
	if cfg.Progress == nil {
		cfg.Progress = func(Progress) {}
	}
	b := &Probe{cfg: cfg, began: cfg.Now(), Report: Report{Channels: cfg.Channels, Costs: cfg.Costs}}
	codec := cfg.Codec()
	b.prepare(codec)
	if len(b.streams) == 0 {
		return nil, errors.New("iaaprobe: no page shrinks")
	}
	return b, b.measureCosts(codec)
}

// corpusPages is the number of distinct pages, and leastPages that for a very slow codec: one
// of each kind in its proportion.
const (
	corpusPages = 512
	leastPages  = 16
)

// prepare makes the pages and their streams: fewer pages if the codec is slow.
func (b *Probe) prepare(codec hybrid.Codec) {
	room := make([]byte, PageSize-1)
	for i, p := range Split(corpus.Generate(1, corpusPages)) {
		if i >= leastPages && b.cfg.Now()-b.began > b.cfg.Budget/part/2 {
			break
		}
		b.pages = append(b.pages, p)
		if n := codec.Deflate(room, p); n > 0 {
			b.streams, b.plain = append(b.streams, slices.Clone(room[:n])), append(b.plain, p)
		}
	}
}

// measureCosts measures the costs of software that are 0.
func (b *Probe) measureCosts(codec hybrid.Codec) (err error) {
	room, page := make([]byte, PageSize-1), make([]byte, PageSize)
	measure := func(cost *time.Duration, pages [][]byte, f func(page []byte)) {
		if *cost != 0 {
			return
		}
		*cost = b.fastest(5, b.cfg.Budget/part/4, func() {
			for _, p := range pages {
				f(p)
			}
		}) / time.Duration(len(pages))
	}
	measure(&b.Costs.Compress, b.pages, func(p []byte) { codec.Deflate(room, p) })
	measure(&b.Costs.Inflate, b.streams, func(s []byte) {
		if e := codec.Inflate(page, s); e != nil {
			err = fmt.Errorf("iaaprobe: the codec does not inflate its own stream: %w", e)
		}
	})
	return err
}

// plan returns the rows of all runs, without results.
func (b *Probe) plan() (rows []Row) {
	for _, dir := range []Direction{Compress, Inflate} {
		rows = append(rows, Row{Direction: dir, Mode: CPUOnly, Memory: Present})
		memories := []Memory{Absent} // to measure the cost of faults
		if dir == Inflate {
			memories = append(memories, Blocked, Bounced)
		}
		for _, n := range b.cfg.Devices {
			rows = append(rows, Row{Direction: dir, Mode: HardwareOnly, Devices: n, Memory: Present},
				Row{Direction: dir, Mode: Hybrid, Devices: n, Memory: Present})
			for _, mem := range memories {
				rows = append(rows, Row{Direction: dir, Mode: HardwareOnly, Devices: n, Memory: mem})
			}
		}
	}
	return rows
}

// Find returns the row of a run, or a zero Row if there is none.
func (r *Report) Find(dir Direction, mode Mode, devices int, mem Memory) Row {
	i := slices.IndexFunc(r.Rows, func(x Row) bool {
		return x.Direction == dir && x.Mode == mode && x.Devices == devices && x.Memory == mem
	})
	if i < 0 {
		return Row{}
	}
	return r.Rows[i]
}

// Gain returns the rate that the processor adds to the devices in hybrid mode, as a share
// of its rate alone. 1 means that both together reach the sum of their rates.
func (r *Report) Gain(dir Direction, devices int) float64 {
	cpu := r.Find(dir, CPUOnly, 0, Present)
	hw, both := r.Find(dir, HardwareOnly, devices, Present), r.Find(dir, Hybrid, devices, Present)
	if cpu.Rate == 0 || hw.Rate == 0 || both.Rate == 0 {
		return 0
	}
	return (both.Rate - hw.Rate) / cpu.Rate
}
