package transport

import (
	"net"
	"testing"
	"time"
)

func TestQueueIsEmpty(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = t.TempDir() + "/s"
			}
			ln, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			if !queueIsEmpty(ln) {
				t.Error("a new listener has a connection")
			}
			if queueIsEmpty(struct{ net.Listener }{ln}) {
				t.Error("the queue of a listener without a socket is known")
			}
			conn, err := net.Dial(network, ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// TCP may queue the connection a moment after Dial returns.
			for deadline := time.Now().Add(10 * time.Second); queueIsEmpty(ln); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the connection is not seen")
				}
			}
			accepted, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer accepted.Close()
			if !queueIsEmpty(ln) {
				t.Error("an accepted connection counts")
			}
			ln.Close()
			if queueIsEmpty(ln) {
				t.Error("the queue of a closed listener is known")
			}
		})
	}
}
