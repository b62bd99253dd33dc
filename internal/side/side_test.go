package side

import (
	"errors"
	"io"
	"os/exec"
	"testing"
)

func TestASideIsToldAndTells(t *testing.T) {
	p, err := Start(exec.Command("cat"), []int{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	if err := p.Next(&got); err != nil || len(got) != 2 || got[1] != 2 {
		t.Errorf("the first thing comes back as %d, error %v", got, err)
	}
	if err := p.Tell("more"); err != nil {
		t.Fatal(err)
	}
	var text string
	if err := p.Next(&text); err != nil || text != "more" {
		t.Errorf("%q, error %v", text, err)
	}
	p.in.Close()
	if err := p.Next(&text); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after the end: %v", err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestASideThatCannotBeStartedIsAnError(t *testing.T) {
	if _, err := Start(exec.Command("/nowhere/to/be/found"), 1); err == nil {
		t.Error("it was started")
	}
}
