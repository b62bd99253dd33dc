package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// progress shows how far a command is: a bar on a terminal, else a plain line
// now and then, or a line of JSON each time.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	every time.Duration
	shown time.Time
	json  bool
	bars  *mpb.Progress
	bar   *mpb.Bar
	text  string
}

// newProgress makes a progress display on stderr. With asJSON it goes to
// stdout, where machines look.
func (a *app) newProgress(asJSON bool) *progress {
	p := &progress{out: a.stderr, every: 2 * time.Second}
	if asJSON {
		p.out, p.json, p.every = a.stdout, true, 200*time.Millisecond
		return p
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))
		p.bar = p.bars.New(0, mpb.BarStyle(), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Percentage(decor.WC{W: 5})),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.text
			})))
	}
	return p
}

// show shows that done of total is done. record is what machines get, text
// what people do.
func (p *progress) show(done, total int64, text string, record any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.text = " " + text
		bar := p.bar
		p.mu.Unlock()
		bar.SetTotal(max(total, 1), false)
		bar.SetCurrent(min(done, total))
		p.mu.Lock()
		return
	}
	if time.Since(p.shown) < p.every || text == p.text {
		return
	}
	p.shown, p.text = time.Now(), text
	if p.json {
		p.line(map[string]any{"progress": record})
		return
	}
	fmt.Fprintln(p.out, text)
}

func (p *progress) line(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only types of this program
	}
	fmt.Fprintf(p.out, "%s\n", b)
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}

// size writes a number of bytes as people read it.
func size[T int64 | uint64 | float64 | int](n T) string {
	v := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if v < 1024 {
			if unit == "B" {
				return fmt.Sprintf("%.0f %s", v, unit)
			}
			return fmt.Sprintf("%.1f %s", v, unit)
		}
		v /= 1024
	}
	return fmt.Sprintf("%.2f TiB", v)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
