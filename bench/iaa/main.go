// Iaa measures the accelerator's driver on a model of the devices, in virtual time.
//
// Usage:
//
//	iaa [-json] [-dynamic] [-cpu SHARE] [-channels N] [-packets N]
//
// The modelled devices take the published times. Software takes the time of the codec, which
// is measured on this machine. The driver takes the time that is measured with a device
// that completes each job at once. On a machine with devices, "vmferry bench iaa" makes the
// same runs in real time.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
	iaaprobe "github.com/vmferry/vmferry/internal/probe/iaa"
)

func main() {
	cfg := iaaprobe.Config{Codec: iaaprobe.NewSoftwareCodec, Devices: []int{1, 2, 4}}
	asJSON := flag.Bool("json", false, "print JSON")
	dynamic := flag.Bool("dynamic", false, "dynamic Huffman codes, not the fixed ones")
	flag.Float64Var(&cfg.CPU, "cpu", 1, "the processor's budget in hybrid runs, more than 0 and at most 1")
	flag.IntVar(&cfg.Channels, "channels", 8, "channels")
	flag.IntVar(&cfg.Packets, "packets", 64, "packets of a channel in each run")
	flag.Parse()
	if flag.NArg() > 0 || cfg.CPU <= 0 || cfg.CPU > 1 {
		flag.Usage()
		os.Exit(2)
	}
	if *dynamic {
		cfg.Huffman = iaa.HuffmanDynamic
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var shown time.Time
	cfg.Progress = func(p iaaprobe.Progress) {
		if time.Since(shown) >= time.Second {
			shown = time.Now()
			fmt.Fprintln(os.Stderr, p)
		}
	}
	err := run(ctx, cfg, *asJSON)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "iaa: interrupted")
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "iaa:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg iaaprobe.Config, asJSON bool) error {
	p, m, err := newModel(ctx, cfg, iaamodel.PublishedTiming, 0)
	if err != nil {
		return err
	}
	if err := p.Run(ctx); err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(struct {
			*iaaprobe.Report
			Timing iaamodel.Timing `json:"timing"`
		}{&p.Report, m.timing})
	}
	_, err = fmt.Print(m.text(p))
	return err
}
