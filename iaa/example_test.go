package iaa_test

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// modelled returns options for a machine with one modelled device, so that the
// examples run anywhere. On a machine with IAA the zero Options take its place.
func modelled() (opts iaa.Options, remove func()) {
	dir, err := os.MkdirTemp("", "iaa-example")
	if err != nil {
		log.Fatal(err)
	}
	m, err := iaamodel.New(dir, iaamodel.Uniform(1, nil))
	if err != nil {
		log.Fatal(err)
	}
	return m.Options(), func() {
		if err := errors.Join(m.Close(), os.RemoveAll(dir)); err != nil {
			log.Fatal(err)
		}
	}
}

// What a machine has, and why it cannot be used.
func ExampleProbe() {
	opts, remove := modelled()
	defer remove()
	inv, err := iaa.Probe(context.Background(), opts)
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range inv.Devices {
		for _, q := range d.Queues {
			fmt.Printf("%s/%s: %s, %d entries, by %s\n", d.Name, q.Name, q.Mode, q.Size, q.Submission)
		}
	}
	fmt.Print(inv.Explain()) // says nothing if a queue is usable
	// Output: iax0/wq0.0: shared, 128 entries, by enqcmd
}

// A page to the device and back.
func ExampleDevice_NewSession() {
	opts, remove := modelled()
	defer remove()
	ctx := context.Background()
	dev, err := iaa.Open(ctx, opts)
	if errors.Is(err, iaa.ErrUnavailable) {
		fmt.Println("working in software:", err)
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	defer dev.Close()
	s, err := dev.NewSession(iaa.SessionConfig{Slots: 128, PageSize: 4096})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close(ctx)

	page := bytes.Repeat([]byte("guest memory "), 400)[:4096]
	if err := s.SubmitCompress(0, page); err != nil {
		log.Fatal(err)
	}
	r, err := s.Wait(ctx, 0)
	if err != nil {
		log.Fatal(err) // or compress the page in software
	}
	plain, err := io.ReadAll(flate.NewReader(bytes.NewReader(r.Output)))
	fmt.Println(!r.Overflow, len(r.Output) < 200, bytes.Equal(plain, page), err)
	// Output: true true true <nil>
}

// Errors say what failed where; the cause is for counting and deciding.
func ExampleJobError() {
	opts, remove := modelled()
	defer remove()
	ctx := context.Background()
	dev, err := iaa.Open(ctx, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer dev.Close()
	s, err := dev.NewSession(iaa.SessionConfig{Slots: 1, PageSize: 4096})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close(ctx)
	if err := s.SubmitInflate(0, []byte{0x07}, make([]byte, 4096)); err != nil {
		log.Fatal(err)
	}
	_, err = s.Wait(ctx, 0)
	fmt.Println(err)
	fmt.Println(errors.Is(err, iaa.ErrMalformed), iaa.Cause(err))
	// Output:
	// iaa: iax0/wq0.0: DECOMPRESS: malformed deflate stream: analytics error (0x0a), the data could not be processed; the code says why: block type 3 (code 13)
	// true malformed
}
