package sleep_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/sleep"
)

func TestFor_EndsWithTheContextsCause(t *testing.T) {
	if err := sleep.For(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := sleep.For(ctx, time.Hour); err != why {
		t.Errorf("%v, want the cause", err)
	}
}
