package vmferry

import (
	"time"

	"github.com/vmferry/vmferry/migration"
)

// reportInterval is the time between two reports of progress.
const reportInterval = 200 * time.Millisecond

// reportEvery calls report with what current returns, at intervals, until the returned
// function is called, which waits for the last call to return. A nil report is none.
func reportEvery(report func(migration.Progress), current func() migration.Progress) (stop func()) {
	if report == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(reportInterval)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				report(current())
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
