package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/machine"
	"github.com/vmferry/vmferry/internal/side"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// sideArgument makes the program a side.
const sideArgument = "side"

// downtime is how long the machine may stand still, here and in QEMU.
const downtime = 10 * time.Millisecond

// job is what a side is told. Both sides of a measurement are told the same but
// for Side.
type job struct {
	Side string

	MemoryMiB int
	DataMiB   int // of it that is not zero
	Channels  int
	Pages     guestmem.PageKind // of both sides' memory
	Prealloc  guestmem.Prealloc // of the destination's memory
	Method    string            // "" is the bare copy
	Log       string            // who knows what was written, as in machine.Config
	Level     int
	// WorkMiB of memory are written to, at Rate pages a second; 0 is not at all.
	WorkMiB, Rate int
	Downtime      time.Duration
	Profiles      string
}

// The sides.
const (
	source      = "source"
	destination = "destination"
	tracking    = "tracking"
	touching    = "touching"
)

func (j *job) memory() uint64 { return uint64(j.MemoryMiB) << 20 }

// machine is the configuration of the writer.
func (j *job) machine() machine.Config {
	c := machine.Config{Memory: j.memory(), Seed: 1, Rate: j.Rate, Log: j.Log}
	if j.Rate > 0 {
		c.Writers, c.WorkingSet = 1, float64(j.WorkMiB)/float64(j.MemoryMiB)
	}
	return c
}

func (j *job) method() (multifd.Method, error) { return multifd.MethodNamed(j.Method) }

// told is what a side tells. Before that a destination tells its address, and a
// source that it is ready, with nothing in it; it then reads the address.
type told struct {
	Address string `json:",omitempty"`

	Total   time.Duration // the bare copy's
	Outcome *live.Outcome // the source's
	Usage   usage
	// Digest is of all memory, and Counters are the writers' last numbers.
	Digest   uint32
	Counters []uint64
	// Diverging is that the migration did not converge.
	Diverging bool
	// Took is what the part tracking measured.
	Took map[string]time.Duration `json:",omitempty"`
}

// usage is what a process took of the machine it runs on.
type usage struct {
	CPU    time.Duration
	Faults int64
}

func usageNow() usage {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return usage{time.Duration(u.Utime.Nano() + u.Stime.Nano()), u.Minflt}
}

func (u usage) since(before usage) usage { return usage{u.CPU - before.CPU, u.Faults - before.Faults} }

// runSide does what the job says.
func runSide(in io.Reader, out io.Writer) error {
	var j job
	orders := json.NewDecoder(in)
	if err := orders.Decode(&j); err != nil {
		return err
	}
	tell := func(t told) error { return json.NewEncoder(out).Encode(t) }
	do := map[string]func(job) (told, error){
		source: func(j job) (told, error) {
			return send(j, func() (to transport.Address, err error) {
				var address string
				if err := errors.Join(tell(told{}), orders.Decode(&address)); err != nil {
					return to, err
				}
				return transport.ParseAddress(address)
			})
		},
		destination: func(j job) (told, error) { return receive(j, tell) },
		tracking:    track, touching: touch,
	}[j.Side]
	if do == nil {
		return fmt.Errorf("unknown side %q", j.Side)
	}
	t, err := do(j)
	if err != nil {
		return fmt.Errorf("%s: %w", j.Side, err)
	}
	return tell(t)
}

// measured runs what is measured, and says what it took of the processors.
func (j *job) measured(do func() error) (usage, error) {
	runtime.GC() // what was done before is not to be cleaned up meanwhile
	if j.Profiles != "" {
		method := j.Method
		if method == "" {
			method = "bare"
		}
		name := fmt.Sprintf("%s-%d-%d-%s-%s.pprof", method, j.Level, j.Rate, j.Pages, j.Side)
		f, err := os.Create(filepath.Join(j.Profiles, name))
		if err != nil {
			return usage{}, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return usage{}, err
		}
		defer pprof.StopCPUProfile()
	}
	before := usageNow()
	err := do()
	return usageNow().since(before), err
}

// process is a side that runs.
type process struct {
	*side.Process
	name string
}

func startSide(ctx context.Context, j job) (process, error) {
	self, err := os.Executable()
	if err != nil {
		return process{}, err
	}
	cmd := exec.CommandContext(ctx, self, sideArgument)
	cmd.Stderr = os.Stderr
	p, err := side.Start(cmd, j)
	return process{p, j.Side}, err
}

// next reads what the side tells.
func (p process) next() (t told, err error) {
	err = p.Next(&t)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the %s ended without a word: %w", p.name, errors.Join(err, p.Wait()))
	}
	return t, err
}

// alone runs a side that has no other.
func alone(ctx context.Context, j job) (told, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	p, err := startSide(ctx, j)
	if err != nil {
		return told{}, err
	}
	t, err := p.next()
	return t, errors.Join(err, p.Wait())
}

// longest is how long one measurement may take.
const longest = 5 * time.Minute

// pair runs a source and a destination and compares what they have at the end.
func pair(ctx context.Context, j job) (from, to told, err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel() // kills what is left
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
	if err := sender.Tell(listens.Address); err != nil {
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

// compare checks that the destination has what the source had.
func compare(from, to told) error {
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
