package live_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"sync"

	"github.com/vmferry/vmferry/dirty"
	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// A memory that migrates: its owner keeps counting in it, and goes on counting
// at the destination, which here is another goroutine.
func Example() {
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 64 << 20}})
	check(err)
	memory, err := guestmem.New(layout)
	check(err)
	writes, err := dirty.New(memory, dirty.Options{})
	check(err)
	owner := newCounter(memory, layout.Blocks[0])
	owner.start()

	address := transport.Address{Network: "tcp", Addr: "127.0.0.1:0"}
	listener, err := address.Listen(context.Background())
	check(err)
	arrived := make(chan *counter, 1)
	go func() {
		sink := new(guestmem.Memory) // as large as the stream says
		_, err := live.Receive(context.Background(), listener, live.ReceiveConfig{
			ReceiveConfig: migration.ReceiveConfig{Wire: migration.Wire{Channels: 2, Method: multifd.QPL}, Sink: sink},
			Start: func(r *migration.Received) error { // called once, when the source may not run any more
				there := newCounter(sink, r.Layout.Blocks[0])
				there.start()
				arrived <- there
				return nil
			},
		})
		check(err)
	}()

	_, err = live.Migrate(context.Background(), func(ctx context.Context) (net.Conn, error) {
		return net.Dial("tcp", listener.Addr().String())
	}, live.Config{
		Wire: migration.Wire{Channels: 2, Method: multifd.QPL}, Memory: memory, Dirty: writes,
		Pause:  func(context.Context) (state []byte, err error) { owner.stop(); return nil, nil },
		Resume: func() error { owner.start(); return nil },
	})
	check(err) // had it failed, the owner would still count here
	there := <-arrived
	there.stop()
	fmt.Println("it went on counting:", there.value() >= owner.value() && owner.value() > 0)
	// Output: it went on counting: true
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// counter counts in memory: a machine with one thing to do.
type counter struct {
	page []byte
	quit chan struct{}
	done sync.WaitGroup
}

func newCounter(m *guestmem.Memory, b *guest.Block) *counter {
	return &counter{page: m.Bytes(b)[:8]}
}

func (c *counter) start() {
	c.quit = make(chan struct{})
	c.done.Go(func() {
		for {
			select {
			case <-c.quit:
				return
			default:
			}
			for i := range c.page { // add one
				if c.page[i]++; c.page[i] != 0 {
					break
				}
			}
		}
	})
}

func (c *counter) stop() {
	close(c.quit)
	c.done.Wait()
}

func (c *counter) value() (n uint64) {
	for i, b := range c.page {
		n |= uint64(b) << (8 * i)
	}
	return n
}
