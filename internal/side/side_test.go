package side

import (
	"errors"
	"io"
	"os/exec"
	"testing"
)

func TestProcess_SendsAndReceivesLines(t *testing.T) {
	p, err := Start(exec.Command("cat"), []int{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	if err := p.Next(&got); err != nil || len(got) != 2 || got[1] != 2 {
		t.Errorf("first value %d, error %v, want [1 2]", got, err)
	}
	if err := p.Send("more"); err != nil {
		t.Fatal(err)
	}
	var text string
	if err := p.Next(&text); err != nil || text != "more" {
		t.Errorf("%q, error %v", text, err)
	}
	p.in.Close()
	if err := p.Next(&text); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Next after the end: %v, want io.ErrUnexpectedEOF", err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestStart_CommandThatCannotBeStarted(t *testing.T) {
	if _, err := Start(exec.Command("/nowhere/to/be/found"), 1); err == nil {
		t.Error("no error for a missing command")
	}
}
