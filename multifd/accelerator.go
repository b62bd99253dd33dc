package multifd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/deflate"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
)

// AcceleratorMode says whether qpl uses the In-Memory Analytics Accelerator.
type AcceleratorMode string

const (
	// AcceleratorAuto uses it where there is one, and says once where not.
	AcceleratorAuto AcceleratorMode = "auto"
	// AcceleratorRequire fails in setup where there is none.
	AcceleratorRequire AcceleratorMode = "require"
	// AcceleratorOff uses software.
	AcceleratorOff AcceleratorMode = "off"
)

// AcceleratorOptions say how qpl uses the accelerator.
type AcceleratorOptions struct {
	Mode AcceleratorMode
	// CPU is the share of a packet's pages, 0 to 1, that a channel's own
	// processor may take from the other end while the device works.
	CPU float64
	// Prefault is how buffers become present at setup.
	Prefault iaa.Prefault
	// Bounce inflates into a prefaulted buffer and copies from there, rather
	// than straight into guest memory. Which is faster depends on whether
	// guest memory is present: see docs/iaa.md.
	Bounce bool
	// Device are the driver's options; the zero value is this machine. Without
	// Nodes, devices of the node that this process runs on come first.
	Device iaa.Options
	Logger *slog.Logger
}

// Accelerator is the accelerator of one migration, shared by its channels. It
// is opened when the first channel is set up. A nil *Accelerator is software.
type Accelerator struct {
	opts AcceleratorOptions
	once sync.Once
	dev  *iaa.Device
	err  error // why there is no device

	mu    sync.Mutex
	ended hybrid.Stats // of channels that were cleaned up
	open  map[*hybrid.Channel]bool
}

// NewAccelerator returns an accelerator that nothing was opened of yet. Close
// has to be called when its channels are cleaned up.
func NewAccelerator(opts AcceleratorOptions) *Accelerator {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Accelerator{opts: opts, open: map[*hybrid.Channel]bool{}}
}

// device opens the device once. It returns nil without an error where software
// does as well.
func (a *Accelerator) device() (*iaa.Device, error) {
	if a == nil || a.opts.Mode == AcceleratorOff || a.opts.Mode == "" {
		return nil, nil
	}
	a.once.Do(func() {
		opts := a.opts.Device
		if opts.Nodes == nil {
			opts.Nodes = currentNode()
		}
		a.dev, a.err = iaa.Open(context.Background(), opts)
		if a.err != nil && a.opts.Mode == AcceleratorAuto {
			a.opts.Logger.Info("qpl runs in software: there is no usable accelerator (see: vmferry iaa list)", "cause", a.err)
		}
	})
	if a.err != nil && a.opts.Mode == AcceleratorRequire {
		return nil, fmt.Errorf("the accelerator is required: %w", a.err)
	}
	return a.dev, nil
}

// currentNode is the NUMA node that this process runs on, and so the one that
// the kernel gives it memory of.
func currentNode() []int {
	var cpu, node uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), uintptr(unsafe.Pointer(&node)), 0); errno != 0 {
		return nil
	}
	return []int{int(node)}
}

// Ready opens the device now. It is an error not to have one where it is
// required.
func (a *Accelerator) Ready() error {
	_, err := a.device()
	return err
}

// Register lets the device work on guest memory in place. The returned
// function takes that back; the channels are cleaned up before.
func (a *Accelerator) Register(m *guestmem.Memory) (unregister func() error, err error) {
	dev, err := a.device()
	if err != nil || dev == nil {
		return func() error { return nil }, err
	}
	var done [][]byte
	unregister = func() error {
		var errs []error
		for _, mem := range done {
			errs = append(errs, dev.Unregister(mem))
		}
		return errors.Join(errs...)
	}
	for _, b := range m.Layout().Blocks {
		if err := dev.Register(m.Bytes(b)); err != nil {
			return nil, errors.Join(err, unregister())
		}
		done = append(done, m.Bytes(b))
	}
	return unregister, nil
}

// AcceleratorStats are what the device and the channels counted.
type AcceleratorStats struct {
	Device iaa.Stats    `json:"device"`
	Pages  hybrid.Stats `json:"pages"`
}

// Stats returns the counts so far; ok is false where no device is in use.
func (a *Accelerator) Stats() (s AcceleratorStats, ok bool) {
	if a == nil || a.dev == nil {
		return s, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Device, s.Pages = a.dev.Stats(), addStats(hybrid.Stats{}, a.ended)
	for c := range a.open {
		s.Pages = addStats(s.Pages, c.Stats())
	}
	return s, true
}

func addStats(a, b hybrid.Stats) hybrid.Stats {
	sum := hybrid.Stats{
		Hardware: a.Hardware + b.Hardware, Software: a.Software + b.Software,
		Verified: a.Verified + b.Verified, Corrupt: a.Corrupt + b.Corrupt, Fallback: map[string]int64{},
	}
	for _, s := range []hybrid.Stats{a, b} {
		for cause, n := range s.Fallback {
			sum.Fallback[cause] += n
		}
	}
	return sum
}

// Close closes the device.
func (a *Accelerator) Close() error {
	if a == nil || a.dev == nil {
		return nil
	}
	return a.dev.Close()
}

// pageCodec is the software side.
type pageCodec struct {
	*deflate.Encoder
	*deflate.Decoder
}

// Channel sets up one goroutine's use of the device: for packets of pages of
// cfg's size and level. It is nil where there is no device; software is then
// the caller's. Cleanup ends it.
func (a *Accelerator) Channel(cfg ChannelConfig) (*hybrid.Channel, error) {
	dev, err := a.device()
	if dev == nil || err != nil {
		return nil, err
	}
	huffman := iaa.HuffmanFixed
	if deflateMode(cfg.Level) == deflate.Dense {
		huffman = iaa.HuffmanDynamic
	}
	c, err := hybrid.NewChannel(dev, hybrid.Config{
		Pages: guest.PacketPages(cfg.PageSize), PageSize: cfg.PageSize,
		Codec: pageCodec{deflate.NewEncoder(deflateMode(cfg.Level)), deflate.NewDecoder()},
		CPU:   a.opts.CPU, Require: a.opts.Mode == AcceleratorRequire, Huffman: huffman,
		Prefault: a.opts.Prefault, Bounce: a.opts.Bounce, Logger: a.opts.Logger,
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.open[c] = true
	a.mu.Unlock()
	return c, nil
}

// drainTime is how long a channel that is cleaned up waits for its last jobs.
const drainTime = 10 * time.Second

// Cleanup ends what Channel set up.
func (a *Accelerator) Cleanup(c *hybrid.Channel) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		a.opts.Logger.Warn("ending a channel's use of the accelerator", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, c)
	a.ended = addStats(a.ended, c.Stats())
}
