package qemutest_test

import (
	"context"
	"fmt"
	"log"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
)

// A test that pauses a machine under load and checks that it recovers.
func Example() {
	_ = func(t *testing.T) {
		vm := qemutest.Start(t, qemutest.Config{Version: "7.2", FillMiB: 40, WorkMiB: 8, RateMiBps: 4})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if err := vm.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		// ... do something to it through vm.QMPPath() ...
		if err := vm.WaitVerified(ctx); err != nil {
			t.Error(err)
		}
	}
}

// The same outside of a test, as in the demo.
func ExampleLaunch() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	vm, err := qemutest.Launch(ctx, qemutest.Config{MemoryMiB: 512, FillMiB: 200})
	if err != nil {
		log.Fatal(err)
	}
	defer vm.Close()
	if err := vm.WaitCount(ctx, 10); err != nil {
		log.Fatal(err)
	}
	count, _ := vm.Count()
	fmt.Println("the guest counts:", count)
}
