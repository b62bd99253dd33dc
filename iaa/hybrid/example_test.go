package hybrid_test

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
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// standard is a software path on compress/flate: simple and slow.
type standard struct{}

func (standard) Deflate(dst, page []byte) int {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		return 0
	}
	if _, err := w.Write(page); err != nil || w.Close() != nil || b.Len() > len(dst) {
		return 0
	}
	return copy(dst, b.Bytes())
}

func (standard) Inflate(dst, src []byte) error {
	p, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(src)), int64(len(dst))+1))
	if err == nil && len(p) != len(dst) {
		err = errors.New("wrong size")
	}
	copy(dst, p)
	return err
}

// Packets overlap: the device works on the next one while the last is finished.
func Example() {
	dir, err := os.MkdirTemp("", "hybrid-example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	m, err := iaamodel.New(dir, iaamodel.Uniform(1, nil))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx := context.Background()
	dev, err := iaa.Open(ctx, m.Options()) // without hardware: a nil device, all software
	if err != nil {
		log.Fatal(err)
	}
	defer dev.Close()
	ch, err := hybrid.NewChannel(dev, hybrid.Config{Pages: 128, PageSize: 4096, Codec: standard{}, CPU: 0.25})
	if err != nil {
		log.Fatal(err)
	}
	defer ch.Close(ctx)

	pages := make([][]byte, 128)
	for i := range pages {
		pages[i] = bytes.Repeat([]byte{byte(i), 'x'}, 2048)
	}
	sent := 0
	send := func(p *hybrid.Packet) {
		if err := p.Finish(ctx); err != nil {
			log.Fatal(err)
		}
		for _, stream := range p.Outputs() {
			if stream != nil { // else the page is sent as it is
				sent++
			}
		}
		p.Release()
	}
	var current *hybrid.Packet
	for range 3 {
		next, err := ch.Compress(pages)
		if err != nil {
			log.Fatal(err)
		}
		if current != nil {
			send(current)
		}
		current = next
	}
	send(current)
	st := ch.Stats()
	fmt.Println(sent, st.Hardware+st.Software, st.Software <= 3*128/4, len(st.Fallback))
	// Output: 384 384 true 0
}
