package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/snapshot"
)

// iaaFlags say how qpl uses the accelerator.
type iaaFlags struct {
	IAA        string  `name:"iaa" default:"auto" enum:"auto,require,off" help:"Use Intel's In-Memory Analytics Accelerator for deflate: ${enum}."`
	IAACPU     float64 `name:"iaa-cpu" default:"1" help:"Largest share of a packet's pages, 0 to 1, that the processor takes while the device works." placeholder:"SHARE"`
	IAAMemory  string  `name:"iaa-memory" default:"populate" enum:"populate,touch,none" help:"How the device's buffers are made present at setup: ${enum}."`
	IAAInflate string  `name:"iaa-inflate" default:"direct" enum:"direct,bounce" help:"Inflate directly into the machine's memory, or into a buffer that is then copied: ${enum}."`
}

// accelerator makes what the method and the store use; nil if neither is of
// deflated pages. store is "" where nothing is stored. Its Close is to be
// called in any case.
func (f *iaaFlags) accelerator(a *app, method multifd.Method, store snapshot.Store) (*pagecodec.Accelerator, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	qpl, deflates := method == multifd.QPL, store == snapshot.StoreFast || store == snapshot.StoreDense
	if !qpl && !deflates {
		if f.IAA == string(pagecodec.Require) {
			return nil, usagef("--iaa require goes with --compression qpl, and with --store fast or dense: nothing else is work for it")
		}
		return nil, nil
	}
	// A save that only stores, as most do, does not log that the machine has no
	// accelerator.
	acc, err := f.newAccelerator(a, qpl || f.IAA == string(pagecodec.Require))
	if err != nil || qpl {
		return acc, err // for qpl the channels' setup says what is missing
	}
	return acc, acc.Ready()
}

func (f *iaaFlags) check() error {
	if !(f.IAACPU >= 0 && f.IAACPU <= 1) { // neither is NaN
		return usagef("--iaa-cpu: want 0 to 1")
	}
	return nil
}

// newAccelerator makes an accelerator. With log set, it says if the machine has none.
func (f *iaaFlags) newAccelerator(a *app, log bool) (*pagecodec.Accelerator, error) {
	var prefault iaa.Prefault
	if err := prefault.UnmarshalText([]byte(f.IAAMemory)); err != nil {
		return nil, err
	}
	opts := pagecodec.Options{
		Policy: pagecodec.Policy(f.IAA), CPU: f.IAACPU, Prefault: prefault, Bounce: f.IAAInflate == "bounce",
	}
	if log {
		opts.Logger = a.logger()
	}
	return pagecodec.NewAccelerator(opts), nil
}

// report says what the device did, where there is one.
func (f *iaaFlags) report(a *app, acc *pagecodec.Accelerator) {
	s, ok := acc.Stats()
	if !ok {
		return
	}
	text, err := json.Marshal(s)
	if err != nil {
		return
	}
	fmt.Fprintf(a.stderr, "accelerator: %s\n", text)
}

type iaaCmd struct {
	List iaaListCmd `cmd:"" help:"List accelerators and their work queues, with the reason why one is not usable."`
}

type iaaListCmd struct {
	JSON  bool   `name:"json" help:"Write JSON."`
	Sysfs string `help:"Directory in which the kernel shows devices." placeholder:"DIR"`
	Dev   string `help:"Directory of the device nodes." placeholder:"DIR"`
}

func (c *iaaListCmd) Run(a *app) error {
	inv, err := iaa.Probe(a.ctx, iaa.Options{SysfsRoot: c.Sysfs, DevRoot: c.Dev})
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(inv)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	if len(inv.Devices) > 0 {
		fmt.Fprintln(w, "device\tqueue\tversion\tengines\tnode\tmode\tsize\tblock on fault\tmax transfer\tstate")
	}
	for _, d := range inv.Devices {
		row := func(queue, mode, sizes, block, transfer, state string) {
			fmt.Fprintf(w, "%s\t%s\t%#x\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", d.Name, queue, d.Version, d.Engines, d.Node, mode, sizes, block, transfer, state)
		}
		if len(d.Queues) == 0 {
			row("-", "-", "-", "-", size(d.MaxTransfer), problemOr(d.Problem, d.State))
		}
		for _, q := range d.Queues {
			block := "no"
			if q.BlockOnFault {
				block = "yes"
			}
			state := q.State
			if q.Submission != "" {
				state = "usable by " + q.Submission
			}
			row(q.Name, q.Mode, fmt.Sprint(q.Size), block, size(q.MaxTransfer), problemOr(q.Problem, state))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if text := strings.TrimSpace(inv.Explain()); text != "" {
		fmt.Fprintln(a.stdout, text)
	}
	return nil
}

func problemOr(p *iaa.Problem, state string) string {
	if p == nil {
		return state
	}
	return string(p.Reason)
}
