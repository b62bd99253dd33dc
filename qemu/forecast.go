package qemu

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qemu/forecast"
	"github.com/vmferry/vmferry/qmp"
)

// ForecastOptions configures Forecast.
type ForecastOptions struct {
	// Monitor opens the machine's monitor. Mostly it is a qmp.Socket.
	Monitor qmp.Opener
	// Bandwidth is the link's in bytes a second; 0 stands for several usual links.
	Bandwidth uint64
	// Downtime is how long the machine may be paused at the end; 300 ms.
	Downtime time.Duration
	// MaxRounds is the number of rounds after which a migration is given up; 30.
	MaxRounds int
	// Processors is the number of processors that compress at the same time; 1.
	Processors float64
	// Measure is the longest time over which QEMU measures the dirty rate; 4 s. It is
	// measured over shorter times, too.
	Measure time.Duration
	// Mode is how QEMU measures; qmp.PageSampling. The other modes need KVM.
	Mode qmp.DirtyRateMode
	// Pages is how many pages are sampled; 512. QEMU holds its big lock for about a
	// millisecond for each, twice.
	Pages int
}

// usualLinks are bandwidths in bytes a second: 100 Mb/s, 1, 10 and 25 Gb/s.
var usualLinks = []uint64{12_500_000, 125_000_000, 1_250_000_000, 3_125_000_000}

// Bounds of the options.
const (
	maxMeasure = 60 * time.Second
	maxSampled = 16384
)

func (o *ForecastOptions) defaults() error {
	o.Downtime = cmp.Or(o.Downtime, 300*time.Millisecond)
	o.MaxRounds = cmp.Or(o.MaxRounds, 30)
	o.Processors = cmp.Or(o.Processors, 1)
	o.Measure = cmp.Or(o.Measure, 4*time.Second)
	o.Mode = cmp.Or(o.Mode, qmp.PageSampling)
	o.Pages = cmp.Or(o.Pages, 512)
	switch {
	case o.Measure < 2*time.Second || o.Measure > maxMeasure:
		return fmt.Errorf("forecast: measuring for %v: want 2s to %v", o.Measure, maxMeasure)
	case o.Pages < 1 || o.Pages > maxSampled:
		return fmt.Errorf("forecast: sampling %d pages: want 1 to %d", o.Pages, maxSampled)
	case o.Downtime < 0 || o.MaxRounds < 0 || o.Processors < 0:
		return fmt.Errorf("forecast: Downtime, MaxRounds and Processors have to be more than 0")
	}
	return nil
}

// ForecastResult says how a migration of a machine would go if the machine stayed as busy as
// it is.
type ForecastResult struct {
	QEMU     string `json:"qemu"`
	RunState string `json:"run_state"`
	// Blocked are QEMU's reasons why the machine cannot be migrated at all.
	Blocked []string `json:"blocked,omitempty"`
	// Memory is in bytes. Only the machine's main memory is sampled.
	Memory uint64              `json:"memory_bytes"`
	Sample forecast.Statistics `json:"sample"`
	// DirtyRate is how QEMU measured the dirty rate; Windows are what it found, empty for
	// a machine that does not run.
	DirtyRate qmp.DirtyRateMode `json:"dirty_rate_mode"`
	Windows   []forecast.Window `json:"dirty_windows"`
	// Methods are how the sampled pages compress, with the speed of one processor of this
	// host. Processor is its name.
	Methods    []forecast.Method `json:"methods"`
	Processor  string            `json:"processor"`
	Processors float64           `json:"processors"`
	// DowntimeLimit is the one of the options.
	DowntimeLimit time.Duration    `json:"downtime_limit_ns"`
	Links         []LinkForecast   `json:"links"`
	Reading       ReadingStatistic `json:"reading"`
}

// LinkForecast is the forecast for one link.
type LinkForecast struct {
	Bandwidth uint64                `json:"bandwidth_bytes_per_second"`
	Methods   []forecast.Prediction `json:"methods"`
	// Auto is the method that converges most surely and ends first.
	Auto forecast.Prediction `json:"auto"`
}

// ReadingStatistic says how long QEMU took for the reading of pages. It holds its big lock
// for no longer than that.
type ReadingStatistic struct {
	Calls   int           `json:"calls"`
	Total   time.Duration `json:"total_ns"`
	Longest time.Duration `json:"longest_ns"`
}

// Forecast measures a machine and computes how a migration would go. The machine runs on,
// and none of its settings changes. QEMU writes no file. If ctx ends, a measurement of the
// dirty rate ends by itself at QEMU, after at most opts.Measure.
func Forecast(ctx context.Context, opts ForecastOptions) (*ForecastResult, error) {
	if err := opts.defaults(); err != nil {
		return nil, err
	}
	monitor, err := qmp.OpenWithin(ctx, opts.Monitor, 0)
	if err != nil {
		return nil, err
	}
	defer monitor.Close()
	f := &forecaster{opts: opts, vm: qmp.NewMachine(monitor), sample: forecast.NewSample()}
	f.vm.SetAnswerTimeout(answerTimeout(0))
	f.result = &ForecastResult{
		QEMU: f.vm.Version().String(), DirtyRate: opts.Mode, Windows: []forecast.Window{},
		DowntimeLimit: opts.Downtime, Processors: opts.Processors, Processor: processorName(),
	}
	if err := f.measure(ctx); err != nil {
		return nil, err
	}
	if err := f.predict(ctx); err != nil {
		return nil, err
	}
	return f.result, nil
}

// forecaster makes one forecast.
type forecaster struct {
	opts   ForecastOptions
	vm     *qmp.Machine
	ram    sampledRAM
	sample *forecast.Sample
	result *ForecastResult
}

// measure asks QEMU and reads pages. The dirty rate is measured between two looks at the
// same pages, and no page is read meanwhile.
func (f *forecaster) measure(ctx context.Context) error {
	running, err := f.checkState(ctx)
	if err != nil {
		return err
	}
	if f.ram, err = findRAM(ctx, f.vm); err != nil {
		return err
	}
	f.result.Memory = f.ram.total
	pages := f.ram.choose(f.opts.Pages)
	if pages, err = f.look(ctx, pages); err != nil {
		return err
	}
	if running {
		if f.result.Windows, err = f.dirtyWindows(ctx); err != nil {
			return err
		}
		if _, err := f.look(ctx, pages); err != nil {
			return err
		}
	}
	f.result.Sample = f.sample.Statistics()
	return nil
}

// checkState refuses a machine whose memory is not there or is being migrated.
func (f *forecaster) checkState(ctx context.Context) (running bool, err error) {
	state, err := f.vm.QueryStatus(ctx)
	if err != nil {
		return false, err
	}
	f.result.RunState = state.Status
	if state.Status == qmp.StateInmigrate {
		return false, fmt.Errorf("%w: it waits for an incoming migration (name the QEMU that runs the machine)", ErrState)
	}
	m, err := f.vm.QueryMigrate(ctx)
	if err != nil {
		return false, err
	}
	f.result.Blocked = m.BlockedReasons
	if m.Status != "" && m.Status != qmp.MigrationNone && !m.Ended() {
		return false, fmt.Errorf("%w: a migration is under way (%s)", ErrState, m.Status)
	}
	return state.Running, nil
}

// measuringSpeed is how long each method compresses the sampled pages.
const measuringSpeed = 200 * time.Millisecond

func (f *forecaster) predict(ctx context.Context) error {
	r := f.result
	for _, method := range []multifd.Method{multifd.None, multifd.QPL, multifd.Zstd} {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		m, err := f.sample.Measure(method, measuringSpeed)
		if err != nil {
			return fmt.Errorf("compressing the sampled pages: %w", err)
		}
		r.Methods = append(r.Methods, m)
	}
	total, sampled := float64(f.ram.total), float64(f.ram.sampled)
	machine := forecast.Machine{
		Memory: total,
		// Of the memory that is not sampled, nothing is known.
		NonZero: forecast.Range{Low: sampled * (1 - r.Sample.Zero.High), High: sampled*(1-r.Sample.Zero.Low) + total - sampled},
		Dirty:   forecast.NewDirtyCurve(total, r.Windows...),
	}
	links := usualLinks
	if f.opts.Bandwidth > 0 {
		links = []uint64{f.opts.Bandwidth}
	}
	for _, bandwidth := range links {
		link := forecast.Link{Bandwidth: float64(bandwidth), DowntimeLimit: f.opts.Downtime, MaxRounds: f.opts.MaxRounds, Processors: f.opts.Processors}
		l := LinkForecast{Bandwidth: bandwidth}
		for _, m := range r.Methods {
			l.Methods = append(l.Methods, forecast.Predict(machine, m, link))
		}
		l.Auto = forecast.Best(l.Methods)
		r.Links = append(r.Links, l)
	}
	return nil
}

// processorName names this host's processor.
func processorName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}
