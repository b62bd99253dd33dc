package iaamodel

import (
	"math/rand/v2"
	"time"

	"github.com/vmferry/vmferry/iaa"
)

// Access names the parts of memory that a job uses, as a set.
type Access uint8

// Parts of memory.
const (
	AccessSource Access = 1 << iota
	AccessDestination
	AccessAECS
	AccessRecord
)

// Fate is the outcome of a descriptor that a queue has accepted.
type Fate uint8

// Fates.
const (
	// FateNormal completes.
	FateNormal Fate = iota
	// FateVanish never completes, but the device no longer has it: a DRAIN
	// completes regardless.
	FateVanish
	// FateHang never completes and occupies an engine until Machine.Release.
	FateHang
)

// Action is what a device does with one descriptor. The zero value completes it
// correctly.
type Action struct {
	// Evict makes memory not present just before the job runs.
	Evict Access
	// Status, if not 0, is reported without doing the job.
	Status iaa.Status
	// Code goes with StatusAnalyticsError.
	Code iaa.Code
	Fate Fate
	// Delay delays the completion.
	Delay time.Duration
	// Resize is added to the output size in the record.
	Resize int
	// Corrupt flips a bit of the output.
	Corrupt bool
	// Stale reports success without filling in the rest of the record.
	Stale bool
}

// Job describes a descriptor for a script.
type Job struct {
	Queue string // "wq0.0"
	Seq   uint64 // counts accepted descriptors of the machine
	Desc  iaa.Descriptor
}

// Script injects faults. Its functions are called one at a time.
type Script struct {
	// Submit is called before a queue accepts a descriptor; if it returns false, the
	// queue refuses as if full. It is called for ENQCMD and write(2) only.
	Submit func(queue string, d *iaa.Descriptor) bool
	// Run is called for each accepted descriptor, resubmissions included, except NOOP
	// and DRAIN.
	Run func(Job) Action
}

// Kind is a kind of fault that Random injects.
type Kind int

// Kinds of faults.
const (
	QueueFull Kind = iota
	SourceFault
	DestinationFault
	AECSFault
	RecordFault
	DeviceError
	Unlisted // a status that no device gives
	WrongSize
	WrongBytes
	StaleRecord
	Late // completes after Faults.LateBy
	Vanished
	numKinds
)

var kindNames = [numKinds]string{"queue full", "source fault", "destination fault", "AECS fault", "record fault", "device error",
	"unlisted status", "wrong size", "wrong bytes", "stale record", "late", "vanished"}

// String returns the kind's name.
func (k Kind) String() string { return kindNames[k] }

// Kinds returns all kinds.
func Kinds() []Kind {
	all := make([]Kind, numKinds)
	for i := range all {
		all[i] = Kind(i)
	}
	return all
}

// Faults injects faults at random.
type Faults struct {
	// Rate is the chance of each kind for each descriptor.
	Rate map[Kind]float64
	// LateBy is how late a job of kind Late is.
	LateBy time.Duration
	// Injected counts what was injected. Read it when the machine is closed.
	Injected map[Kind]int
}

// Random returns a script that injects f's faults, the same ones for the same
// seed and order of descriptors.
func Random(seed uint64, f *Faults) Script {
	rng := rand.New(rand.NewPCG(seed, 0xfa17))
	f.Injected = make(map[Kind]int)
	hit := func(k Kind) bool {
		if rng.Float64() >= f.Rate[k] {
			return false
		}
		f.Injected[k]++
		return true
	}
	return Script{
		Submit: func(string, *iaa.Descriptor) bool { return !hit(QueueFull) },
		Run: func(j Job) Action {
			for k := SourceFault; k < numKinds; k++ {
				if k == AECSFault && j.Desc.Flags()&iaa.FlagReadAECS == 0 {
					continue // the job has none
				}
				if hit(k) {
					return f.action(k, rng)
				}
			}
			return Action{}
		},
	}
}

func (f *Faults) action(k Kind, rng *rand.Rand) Action {
	switch k {
	case SourceFault:
		return Action{Evict: AccessSource}
	case DestinationFault:
		return Action{Evict: AccessDestination}
	case AECSFault:
		return Action{Evict: AccessAECS}
	case RecordFault:
		return Action{Evict: AccessRecord}
	case DeviceError:
		return Action{Status: iaa.StatusHardwareError + iaa.Status(rng.IntN(5))}
	case Unlisted:
		return Action{Status: 0x77}
	case WrongSize:
		return Action{Resize: []int{-1, 1, -100, 1 << 20}[rng.IntN(4)]}
	case WrongBytes:
		return Action{Corrupt: true}
	case StaleRecord:
		return Action{Stale: true}
	case Late:
		return Action{Delay: f.LateBy}
	case Vanished:
		return Action{Fate: FateVanish}
	}
	return Action{}
}
