package pagecodec

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
	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
)

// Policy selects between the device and software.
type Policy string

const (
	// Auto uses the device if there is a usable one. Otherwise it uses software,
	// and logs that once.
	Auto Policy = "auto"
	// Require makes NewEncoder, NewDecoder, Ready and Register fail if there is no
	// usable device.
	Require Policy = "require"
	// Off uses software. It is the default.
	Off Policy = "off"
)

// Options configure an Accelerator.
type Options struct {
	Policy Policy
	// CPU is the share of a batch's pages, 0 to 1, that the processor may take
	// from the end of the batch while the device works on its beginning.
	CPU float64
	// Prefault selects how buffers become present at setup.
	Prefault iaa.Prefault
	// Bounce makes the device inflate into a prefaulted buffer, from which the
	// processor copies to guest memory. Whether that is faster depends on whether
	// guest memory is present: see docs/guide/iaa.md.
	Bounce bool
	// Device are the options of the driver. The zero value selects the devices of
	// this machine. Without Nodes, the driver prefers devices of the NUMA node that
	// this process runs on.
	Device iaa.Options
	// Logger may be nil, which discards logs.
	Logger *slog.Logger
}

// Accelerator is the device of one migration or snapshot. Several goroutines may use it.
// It opens the device on first use. A nil *Accelerator uses software.
type Accelerator struct {
	opts Options

	mu     sync.Mutex
	opened bool
	dev    *iaa.Device
	err    error                    // why there is no device
	ended  hybrid.Stats             // counts of closed channels
	open   map[*hybrid.Channel]bool // open channels
}

// NewAccelerator returns an accelerator that opens its device on first use. Close
// it after its encoders and decoders.
func NewAccelerator(opts Options) *Accelerator {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Accelerator{opts: opts, open: map[*hybrid.Channel]bool{}}
}

// device opens the device at its first call. It returns nil without an error if software
// does the work.
func (a *Accelerator) device() (*iaa.Device, error) {
	if a == nil || a.opts.Policy == Off || a.opts.Policy == "" {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.opened {
		a.opened = true
		opts := a.opts.Device
		if opts.Nodes == nil {
			opts.Nodes = currentNode()
		}
		a.dev, a.err = iaa.Open(context.Background(), opts)
		if a.err != nil && a.opts.Policy == Auto {
			a.opts.Logger.Info("pages are deflated and inflated in software: no usable accelerator (see: vmferry iaa list)", "cause", a.err)
		}
	}
	if a.err != nil && a.opts.Policy == Require {
		return nil, fmt.Errorf("the accelerator is required: %w", a.err)
	}
	return a.dev, nil
}

// currentNode returns the NUMA node that this process runs on. The kernel allocates its
// memory on the same node.
func currentNode() []int {
	var cpu, node uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), uintptr(unsafe.Pointer(&node)), 0); errno != 0 {
		return nil
	}
	return []int{int(node)}
}

// Ready opens the device. It fails if the device is required and unusable.
func (a *Accelerator) Ready() error {
	_, err := a.device()
	return err
}

// Register lets the device read and write guest memory in place. The caller calls
// unregister after it closes the encoders and decoders, and before it unmaps the memory.
// In software Register does nothing.
func (a *Accelerator) Register(memory [][]byte) (unregister func() error, err error) {
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
	for _, mem := range memory {
		if err := dev.Register(mem); err != nil {
			return nil, errors.Join(err, unregister())
		}
		done = append(done, mem)
	}
	return unregister, nil
}

// Stats has the counts of the device and of the pages that were sent to it.
type Stats struct {
	Device iaa.Stats    `json:"device"`
	Pages  hybrid.Stats `json:"pages"`
}

// Stats returns the counts so far. ok is false if no device is in use.
func (a *Accelerator) Stats() (s Stats, ok bool) {
	if a == nil {
		return s, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dev == nil {
		return s, false
	}
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

// Close closes the device. Call it after all encoders and decoders are closed.
func (a *Accelerator) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	dev := a.dev // a.dev stays set for Stats
	a.mu.Unlock()
	if dev == nil {
		return nil
	}
	return dev.Close()
}

// NewEncoder returns an encoder of batches of up to a packet of pages
// (guest.PacketPages): on the device if there is a usable one, otherwise in software.
func (a *Accelerator) NewEncoder(pageSize int, mode deflate.Mode) (Encoder, error) {
	ch, err := a.channel(pageSize, mode)
	if err != nil {
		return nil, err
	}
	if ch == nil {
		return newSoftwareEncoder(pageSize, mode), nil
	}
	return &deviceEncoder{deviceChannel: deviceChannel{acc: a, ch: ch}}, nil
}

// NewDecoder returns a decoder of batches of up to a packet of pages
// (guest.PacketPages): on the device if there is a usable one, otherwise in software.
func (a *Accelerator) NewDecoder(pageSize int) (Decoder, error) {
	ch, err := a.channel(pageSize, deflate.Fast)
	if err != nil {
		return nil, err
	}
	if ch == nil {
		return newSoftwareDecoder(pageSize), nil
	}
	d := &deviceDecoder{deviceChannel: deviceChannel{acc: a, ch: ch}, pageSize: pageSize}
	if d.scratch, err = ch.Buffer(guest.PacketBytes); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// software is the codec for the pages of a channel that the device does not process.
type software struct {
	*deflate.Encoder
	*deflate.Decoder
}

// channel opens a channel of the device for one goroutine. It returns nil if software
// does the work.
func (a *Accelerator) channel(pageSize int, mode deflate.Mode) (*hybrid.Channel, error) {
	if pageSize < guest.MinPageSize || pageSize > guest.MaxPageSize {
		return nil, fmt.Errorf("pagecodec: page size %d (want %d to %d)", pageSize, guest.MinPageSize, guest.MaxPageSize)
	}
	dev, err := a.device()
	if dev == nil || err != nil {
		return nil, err
	}
	c, err := hybrid.NewChannel(dev, hybrid.Config{
		Pages: guest.PacketPages(pageSize), PageSize: pageSize,
		Codec: software{deflate.NewEncoder(mode), deflate.NewDecoder()},
		CPU:   a.opts.CPU, Require: a.opts.Policy == Require, Huffman: huffman(mode),
		Prefault: a.opts.Prefault, Bounce: a.opts.Bounce, Logger: a.opts.Logger,
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[c] = true
	return c, nil
}

// huffman returns the device's Huffman code for the mode.
func huffman(mode deflate.Mode) iaa.Huffman {
	if mode == deflate.Dense {
		return iaa.HuffmanDynamic
	}
	return iaa.HuffmanFixed
}

// drainTime is the longest time that closing a channel waits for its last jobs.
const drainTime = 10 * time.Second

// closeChannel closes a channel and keeps its counts.
func (a *Accelerator) closeChannel(c *hybrid.Channel) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		a.opts.Logger.Warn("closing a channel of the accelerator failed", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, c)
	a.ended = addStats(a.ended, c.Stats())
}
