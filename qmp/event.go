package qmp

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// eventBuffer is how many events wait for a slow receiver. A migration emits
// a few dozen in its life.
const eventBuffer = 64

// Event is a report of QEMU that answers no command.
type Event struct {
	Name string          // such as "STOP", "RESUME" or "MIGRATION"
	Data json.RawMessage // nil if the event has none
	Time time.Time       // QEMU's host clock; zero if QEMU gave none
}

// Decode decodes the event's data into the value that v points to.
func (e Event) Decode(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("qmp: event %s: unexpected data %q: %w", printable(e.Name), printable(string(e.Data)), err)
	}
	return nil
}

// Publisher hands events out to subscriptions. It is for implementations of
// [Monitor]. The zero value is ready.
type Publisher struct {
	mu     sync.Mutex
	subs   map[*Subscription]struct{}
	closed bool
}

// Subscribe starts to collect the events of the given names, or all events if
// there are no names: see [Monitor].
func (p *Publisher) Subscribe(names ...string) *Subscription {
	s := &Subscription{publisher: p, names: slices.Clone(names), events: make(chan Event, eventBuffer)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		close(s.events)
		return s
	}
	if p.subs == nil {
		p.subs = make(map[*Subscription]struct{})
	}
	p.subs[s] = struct{}{}
	return s
}

// Publish adds an event to the subscriptions that want it. It does not wait for
// a receiver.
func (p *Publisher) Publish(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.subs {
		s.deliver(e)
	}
}

// Close ends all subscriptions, and those that are made later.
func (p *Publisher) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for s := range p.subs {
		close(s.events)
	}
	p.subs = nil
}

// Subscription is a bounded queue of events. See [Monitor].
//
// A full queue drops its oldest event and keeps the newest. So a receiver that
// is slow does not delay the monitor, and still learns the latest state.
type Subscription struct {
	publisher *Publisher
	names     []string
	events    chan Event
	lost      atomic.Uint64
}

// Events returns the queue. The queue is closed, after the events that it still
// holds, when the monitor or the subscription is closed.
func (s *Subscription) Events() <-chan Event { return s.events }

// Lost returns how many events were dropped so far because the queue was full.
func (s *Subscription) Lost() uint64 { return s.lost.Load() }

// Close ends the subscription. Closing again does nothing.
func (s *Subscription) Close() {
	s.publisher.mu.Lock()
	defer s.publisher.mu.Unlock()
	if _, ok := s.publisher.subs[s]; ok {
		delete(s.publisher.subs, s)
		close(s.events)
	}
}

// deliver adds an event to the queue. The publisher's lock is held, so nothing
// else adds to the queue meanwhile.
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
		default: // the receiver has taken an event meanwhile
		}
	}
}
