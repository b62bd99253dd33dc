package relay

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// usage is processor time in virtual time: that of the work of a test.
type usage struct{ total time.Duration }

func (u *usage) budget(cpus float64) *budget {
	b := newBudget(cpus, func() int { return 0 })
	b.used = func() time.Duration { return u.total }
	return b
}

// TestBudget_BoundsTheTimeUsed runs workers that always have work. All have to get
// turns, and together they may use what the bound allows.
func TestBudget_BoundsTheTimeUsed(t *testing.T) {
	for _, cpus := range []float64{0.1, 0.5, 1, 3} {
		synctest.Test(t, func(t *testing.T) {
			const workers, piece, during = 50, 2 * time.Millisecond, 20 * time.Second
			u := new(usage)
			b := u.budget(cpus)
			defer b.stop()
			ctx, cancel := context.WithTimeout(t.Context(), during)
			defer cancel()
			var turns [workers]int
			var working sync.WaitGroup
			for w := range workers {
				working.Go(func() {
					for b.wait(ctx) == nil {
						time.Sleep(piece)
						b.mu.Lock()
						u.total += piece
						turns[w]++
						b.mu.Unlock()
					}
				})
			}
			working.Wait()
			least, most := turns[0], turns[0]
			for _, n := range turns {
				least, most = min(least, n), max(most, n)
			}
			got := u.total.Seconds() / during.Seconds()
			// Before the first sample and after each reserve all workers begin at once.
			if slack := (workers*piece + budgetSaved).Seconds() * 2 / during.Seconds(); got > cpus+slack || got < 0.7*cpus {
				t.Errorf("bound %v: %.3f processors are used", cpus, got)
			}
			if least == 0 || most > 2*least+2 {
				t.Errorf("bound %v: the workers had between %d and %d turns", cpus, least, most)
			}
		})
	}
}

// TestBudget_OtherWorkOfTheProcessDoesNotStopIt has a program around the relay that uses
// more than the bound.
func TestBudget_OtherWorkOfTheProcessDoesNotStopIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(1, func() int { return 0 })
		began := time.Now()
		b.used = func() time.Duration { return 3 * time.Since(began) }
		defer b.stop()
		for range 100 {
			if err := b.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(began); d > 100*(budgetLongest+2*budgetInterval) {
			t.Errorf("100 pieces of work began within %v", d)
		}
	})
}

func TestBudget_WaitEndsWithItsContextAndWithStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(1, func() int { return 0 })
		began := time.Now()
		b.used = func() time.Duration { return 100 * time.Since(began) }
		b.wait(t.Context())
		time.Sleep(budgetInterval)
		ctx, cancel := context.WithCancelCause(t.Context())
		errs := make(chan error, 2)
		go func() { errs <- b.wait(ctx) }()
		synctest.Wait()
		go func() { errs <- b.wait(t.Context()) }()
		synctest.Wait()
		why := errors.New("the context ended")
		cancel(why)
		if err := <-errs; !errors.Is(err, why) {
			t.Errorf("the wait ended with %v, want its context's cause", err)
		}
		b.stop()
		if err := <-errs; err != nil {
			t.Errorf("after stop: %v", err)
		}
	})
}

// TestBudget_IdleBudgetWakesNothing: a program can hold a Relay for weeks.
func TestBudget_IdleBudgetWakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, samples := new(usage), 0
		b := u.budget(1)
		b.used = func() time.Duration { samples++; return 0 }
		b.wait(t.Context())
		time.Sleep(time.Hour)
		if samples > 1 {
			t.Errorf("%d samples in an hour without work", samples)
		}
		b.stop()
	})
}
