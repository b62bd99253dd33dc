package qmp

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// eventBuffer is how many events wait for a slow receiver. A migration emits
// a few dozen in its life.
const eventBuffer = 64

// Event is something that QEMU reports unasked.
type Event struct {
	Name string          // such as "STOP", "RESUME" or "MIGRATION"
	Data json.RawMessage // nil when the event has none
	Time time.Time       // QEMU's host clock; zero if QEMU gave none
}

// Decode decodes the event's data into the value that v points to.
func (e Event) Decode(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("qmp: event %s: unexpected data %q: %w", printable(e.Name), printable(string(e.Data)), err)
	}
	return nil
}

// Subscription is a bounded queue of events. See [Client.Subscribe].
type Subscription struct {
	client *Client
	names  []string
	events chan Event
	lost   atomic.Uint64
}

// Subscribe starts to collect the events of the given names, or all events
// when there are none. Close it when no more are wanted.
//
// A receiver that falls behind never holds up the client: when the queue is
// full its oldest event is dropped, so that the newest, which tells the state
// that counts, always arrives. [Subscription.Lost] tells how many were
// dropped.
func (c *Client) Subscribe(names ...string) *Subscription {
	s := &Subscription{client: c, names: slices.Clone(names), events: make(chan Event, eventBuffer)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subs == nil {
		close(s.events)
		return s
	}
	c.subs[s] = struct{}{}
	return s
}

// Events gives the queue. It is closed, after what it still holds, when the
// connection ends or the subscription is closed.
func (s *Subscription) Events() <-chan Event { return s.events }

// Lost tells how many events were dropped so far because the receiver was
// too slow.
func (s *Subscription) Lost() uint64 { return s.lost.Load() }

// Close ends the subscription. Closing again does nothing.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	if _, ok := s.client.subs[s]; ok {
		delete(s.client.subs, s)
		close(s.events)
	}
}

// deliver is called by the client's reader alone, with the client's lock
// held, so nobody else adds to the queue meanwhile.
func (s *Subscription) deliver(e Event) {
	if len(s.names) > 0 && !slices.Contains(s.names, e.Name) {
		return
	}
	for {
		select {
		case s.events <- e:
			return
		default:
		}
		select {
		case <-s.events:
			s.lost.Add(1)
		default: // the receiver has just made room
		}
	}
}
