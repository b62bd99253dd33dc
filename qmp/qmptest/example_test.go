package qmptest_test

import (
	"testing"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// A test of a program that pauses a machine.
func Example() {
	_ = func(t *testing.T) {
		s := qmptest.Start(t, qmptest.Config{Version: qmp.Version{Major: 7, Minor: 2}})
		s.Answer("stop", nil)
		s.Refuse("cont", "Block device is locked")

		c, err := qmp.Dial(t.Context(), s.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if err := c.Cont(t.Context()); err == nil {
			t.Error("want the refusal")
		}
	}
}
