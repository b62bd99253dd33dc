package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/internal/side"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// SideArgument is the argument with which the program runs a side.
const SideArgument = "side"

// Downtime is the downtime limit, for vmferry and for QEMU.
const Downtime = 10 * time.Millisecond

// Job is the job of a side. Both sides of a measurement get the same job, except for Side.
type Job struct {
	Side string

	MemoryMiB int
	DataMiB   int // size of the pages that are not zero
	Channels  int
	Pages     guestmem.PageKind // of both sides' memory
	Prealloc  guestmem.Prealloc // of the destination's memory
	Method    string            // "" is the bare copy
	Log       string            // the dirty log, as in machine.Config
	Level     int
	// The writer writes to WorkMiB of memory, at Rate pages a second. 0 means that
	// there is no writer.
	WorkMiB, Rate int
	Downtime      time.Duration
	Profiles      string // folder for CPU profiles, or ""
}

// LevelDense is the Level of method qpl that compresses densely.
const LevelDense = multifd.LevelDense

// The sides.
const (
	source      = "source"
	destination = "destination"
	// Touching writes to as much memory as the machine has, and frees it.
	Touching = "touching"
)

func (j *Job) memory() uint64 { return uint64(j.MemoryMiB) << 20 }

// machine is the configuration of the writer.
func (j *Job) machine() machine.Config {
	c := machine.Config{Memory: j.memory(), Seed: 1, Rate: j.Rate, Log: j.Log}
	if j.Rate > 0 {
		c.Writers, c.WorkingSet = 1, float64(j.WorkMiB)/float64(j.MemoryMiB)
	}
	return c
}

func (j *Job) method() (multifd.Method, error) { return multifd.MethodNamed(j.Method) }

// Result is the result of a side. Before its result, a destination reports a Result with
// its address, and a source reports an empty Result when it is ready; the source then reads
// the address.
type Result struct {
	Address string `json:",omitempty"`

	Total   time.Duration // of the bare copy
	Outcome *live.Outcome // of the source
	Usage   Usage
	// Digest is a checksum of all memory. Counters are the numbers of the last write
	// of each writer.
	Digest   uint32
	Counters []uint64
	// Diverging says that the migration did not converge.
	Diverging bool
	// Took has the times of the part tracking.
	Took map[string]time.Duration `json:",omitempty"`
}

// RunSide reads a job, runs it, and writes its results. others has sides besides those of
// this package.
func RunSide(in io.Reader, out io.Writer, others map[string]func(Job) (Result, error)) error {
	var j Job
	orders := json.NewDecoder(in)
	if err := orders.Decode(&j); err != nil {
		return err
	}
	report := func(t Result) error { return json.NewEncoder(out).Encode(t) }
	sides := map[string]func(Job) (Result, error){
		source: func(j Job) (Result, error) {
			return send(j, func() (to transport.Address, err error) {
				var address string
				if err := errors.Join(report(Result{}), orders.Decode(&address)); err != nil {
					return to, err
				}
				return transport.ParseAddress(address)
			})
		},
		destination: func(j Job) (Result, error) { return receive(j, report) },
		Touching:    touch,
	}
	maps.Copy(sides, others)
	do := sides[j.Side]
	if do == nil {
		return fmt.Errorf("unknown side %q", j.Side)
	}
	t, err := do(j)
	if err != nil {
		return fmt.Errorf("%s: %w", j.Side, err)
	}
	return report(t)
}

// measured calls do and returns its usage.
func (j *Job) measured(do func() error) (Usage, error) {
	runtime.GC() // so that garbage from before is not collected during the measurement
	if j.Profiles != "" {
		method := j.Method
		if method == "" {
			method = "bare"
		}
		name := fmt.Sprintf("%s-%d-%d-%s-%s.pprof", method, j.Level, j.Rate, j.Pages, j.Side)
		f, err := os.Create(filepath.Join(j.Profiles, name))
		if err != nil {
			return Usage{}, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return Usage{}, err
		}
		defer pprof.StopCPUProfile()
	}
	before := usageNow()
	err := do()
	return usageNow().Since(before), err
}

// process is a running side.
type process struct {
	*side.Process
	name string
}

func startSide(ctx context.Context, j Job) (process, error) {
	self, err := os.Executable()
	if err != nil {
		return process{}, err
	}
	cmd := exec.CommandContext(ctx, self, SideArgument)
	cmd.Stderr = os.Stderr
	p, err := side.Start(cmd, j)
	return process{p, j.Side}, err
}

// next reads the next report of the side.
func (p process) next() (t Result, err error) {
	err = p.Next(&t)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the %s ended without a result: %w", p.name, errors.Join(err, p.Wait()))
	}
	return t, err
}

// RunAlone runs a single side.
func RunAlone(ctx context.Context, j Job) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	p, err := startSide(ctx, j)
	if err != nil {
		return Result{}, err
	}
	t, err := p.next()
	return t, errors.Join(err, p.Wait())
}

// measureTimeout bounds one measurement.
const measureTimeout = 5 * time.Minute

// RunPair runs a source and a destination, and compares their memory at the end.
func RunPair(ctx context.Context, j Job) (from, to Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel() // kills sides that still run
	j.Side = source
	sender, err := startSide(ctx, j)
	if err != nil {
		return from, to, err
	}
	if _, err := sender.next(); err != nil {
		return from, to, err
	}
	j.Side = destination
	receiver, err := startSide(ctx, j)
	if err != nil {
		return from, to, err
	}
	listens, err := receiver.next()
	if err != nil {
		return from, to, err
	}
	if err := sender.Send(listens.Address); err != nil {
		return from, to, err
	}
	if from, err = sender.next(); err != nil {
		return from, to, err
	}
	if err := sender.Wait(); err != nil {
		return from, to, err
	}
	if from.Diverging {
		cancel()
		receiver.Wait()
		return from, to, nil
	}
	if to, err = receiver.next(); err != nil {
		return from, to, err
	}
	return from, to, errors.Join(receiver.Wait(), compare(from, to))
}

// compare checks that the destination has the memory and the counters of the source.
func compare(from, to Result) error {
	if from.Digest != to.Digest {
		return fmt.Errorf("the memory differs: %08x at the source, %08x at the destination", from.Digest, to.Digest)
	}
	if !slices.Equal(from.Counters, to.Counters) {
		return fmt.Errorf("the writers' counters differ: %d at the source, %d at the destination", from.Counters, to.Counters)
	}
	if o := from.Outcome; o != nil && !o.Verified {
		return errors.New("the destination took no part in the handover")
	}
	return nil
}
