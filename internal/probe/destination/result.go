package destination

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// Result is the result of a run. Its JSON keys are a contract with users of the command.
type Result struct {
	Modelled    bool          `json:"modelled"`
	Destination Memory        `json:"destination"`
	Channels    int           `json:"channels"`
	Devices     int           `json:"devices"`
	Data        int           `json:"data_pages"` // arrivals
	Zero        int           `json:"zero_pages"` // arrivals
	Elapsed     time.Duration `json:"elapsed_ns"` // virtual
	Rate        float64       `json:"bytes_per_second"`
	// Times is the time as a multiple of that with preallocated memory.
	Times float64 `json:"times_prealloc"`
	// DeviceFaults are page faults of devices, CPUFaults those of the processor. Flushes are
	// changes of mappings, each of which flushes the TLB of every device.
	DeviceFaults int    `json:"device_faults"`
	CPUFaults    int    `json:"cpu_faults"`
	Flushes      int    `json:"tlb_flushes"`
	Causes       Causes `json:"causes"`
}

// Causes are the shares of the channels' time that each cause has. They add up to 1.
//
// A channel's waiting for jobs is divided as the engines' time is. An engine's waiting for page
// requests is divided as the time of the queues that serve them is: into faults and flushes.
type Causes struct {
	Receive      float64 `json:"receive"`       // reading the streams
	Submit       float64 `json:"submit"`        // the driver
	Compute      float64 `json:"compute"`       // engines inflate
	Translation  float64 `json:"translation"`   // engines wait for addresses
	DeviceFaults float64 `json:"device_faults"` // engines wait for page requests
	Flush        float64 `json:"tlb_flush"`     // the kernel flushes TLBs
	Stall        float64 `json:"engine_stall"`  // engines make no progress during flushes
	CPUFaults    float64 `json:"cpu_faults"`    // of the channel's thread
	Scan         float64 `json:"zero_scan"`     // reading pages that should be zero
	Copy         float64 `json:"copy"`          // copying pages that devices cannot reach
}

// Sum returns the sum of all shares.
func (c Causes) Sum() float64 {
	return c.Receive + c.Submit + c.Compute + c.Translation + c.DeviceFaults + c.Flush + c.Stall + c.CPUFaults + c.Scan + c.Copy
}

// result returns the result of a run from the machine's statistics before and after it.
func (m *model) result(before, after iaamodel.Stats) Result {
	r := Result{Modelled: true, Destination: m.memory, Channels: m.Channels, Devices: m.Devices}
	var receiving, scanning, threads time.Duration
	for _, c := range m.channels {
		r.Data += c.data
		r.Zero += c.zero
		r.Elapsed = max(r.Elapsed, c.took)
		receiving, scanning, threads = receiving+c.receiving, scanning+c.scanning, threads+c.took
	}
	r.Rate = float64(r.Data+r.Zero) * pageSize / r.Elapsed.Seconds()
	r.DeviceFaults = after.Translation.Requests - before.Translation.Requests
	r.CPUFaults = after.Processor.Faults - before.Processor.Faults
	r.Flushes = after.Translation.Flushes - before.Translation.Flushes

	part := func(d time.Duration) float64 { return float64(d) / float64(threads) }
	b, a := before.Processor, after.Processor
	waiting := part(a.Waiting - b.Waiting)
	engines := share(before, after)
	r.Causes = Causes{
		Receive: part(receiving), Submit: part(a.Submitting - b.Submitting),
		Compute: waiting * engines.Compute, Translation: waiting * engines.Translation,
		DeviceFaults: waiting * engines.DeviceFaults, Flush: waiting*engines.Flush + part(a.Flushing-b.Flushing), Stall: waiting * engines.Stall,
		CPUFaults: part(a.Touching - b.Touching), Scan: part(scanning), Copy: part(a.Copying - b.Copying),
	}
	return r
}

// share divides the engines' time.
func share(before, after iaamodel.Stats) Causes {
	b, a := before.Translation, after.Translation
	total := float64(after.Busy - before.Busy)
	if total == 0 {
		return Causes{Compute: 1}
	}
	c := Causes{Translation: float64(a.TranslationTime-b.TranslationTime) / total, Stall: float64(a.FlushStall-b.FlushStall) / total}
	faults := float64(after.FaultStall-before.FaultStall) / total
	served, flushed := float64(a.RequestTime-b.RequestTime), float64(a.RequestFlush-b.RequestFlush)
	if served+flushed > 0 {
		c.DeviceFaults, c.Flush = faults*served/(served+flushed), faults*flushed/(served+flushed)
	}
	c.Compute = 1 - c.Sum()
	return c
}

// WriteText writes results as tables.
func WriteText(w io.Writer, results []Result) error {
	if len(results) == 0 {
		return nil
	}
	fmt.Fprintf(w, "Modelled destination, in virtual time; no hardware was involved: %d channels, %d devices.\n\n", results[0].Channels, results[0].Devices)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "destination\tdata pages\tzero pages\tms\ttimes prealloc\tdevice faults\tCPU faults\tTLB flushes")
	for _, r := range results {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%.2f\t%.1f\t%d\t%d\t%d\n", r.Destination, r.Data, r.Zero, float64(r.Elapsed)/1e6, r.Times, r.DeviceFaults, r.CPUFaults, r.Flushes)
	}
	fmt.Fprintln(tw, "\nshare of\treceive\tsubmit\tcompute\ttranslation\tdevice faults\tTLB flush\tengine stall\tCPU faults\tzero scan\tcopy")
	for _, r := range results {
		c := r.Causes
		fmt.Fprintf(tw, "%s", r.Destination)
		for _, x := range []float64{c.Receive, c.Submit, c.Compute, c.Translation, c.DeviceFaults, c.Flush, c.Stall, c.CPUFaults, c.Scan, c.Copy} {
			fmt.Fprintf(tw, "\t%.1f %%", 100*x)
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}
