package iaamodel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// The second job of a machine never completes.
func Example() {
	dir, err := os.MkdirTemp("", "iaamodel-example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cfg := iaamodel.Uniform(1, nil)
	jobs := 0
	cfg.Script.Run = func(iaamodel.Job) iaamodel.Action {
		if jobs++; jobs == 2 {
			return iaamodel.Action{Fate: iaamodel.FateVanish}
		}
		return iaamodel.Action{}
	}
	m, err := iaamodel.New(dir, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()

	ctx := context.Background()
	opts := m.Options()
	opts.JobTimeout = 100 * time.Millisecond
	dev, err := iaa.Open(ctx, opts)
	if err != nil {
		log.Fatal(err)
	}
	s, err := dev.NewSession(iaa.SessionConfig{Slots: 1, PageSize: 4096})
	if err != nil {
		log.Fatal(err)
	}
	page := bytes.Repeat([]byte("page "), 1000)[:4096]
	for range 2 {
		if err := s.SubmitCompress(0, page); err != nil {
			log.Fatal(err)
		}
		_, err := s.Wait(ctx, 0)
		fmt.Println(err)
	}
	fmt.Println(errors.Join(s.Close(ctx), dev.Close()), m.Violations())
	// Output:
	// <nil>
	// iaa: iax0/wq0.0: COMPRESS: job did not complete in time
	// <nil> []
}
