package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Monitor executes QMP commands in one QEMU. Its methods may be called from
// several goroutines. [Machine] has the commands with types; [Socket] opens the
// monitors of this package.
type Monitor interface {
	// Execute runs a command with args (nil for none; otherwise a value that
	// encodes as a JSON object) and decodes QEMU's answer into the value that
	// result points to (nil drops the answer). It waits for the answer until ctx
	// ends; QEMU may carry the command out even then.
	//
	// A refusal by QEMU is an [*Error]. An error that wraps [ErrClosed] says that
	// this monitor is of no more use; it is then unknown whether QEMU carried the
	// command out. QEMU may live on and accept another monitor.
	Execute(ctx context.Context, command string, args, result any) error

	// Subscribe starts to collect the events of the given names, or all events if
	// there are no names. The subscription ends with its own Close and with the
	// monitor's. An event that QEMU sent before an answer is in the queue when
	// Execute returns that answer: a monitor that polls for events polls before
	// it returns an answer. See [Publisher].
	Subscribe(names ...string) *Subscription

	// Version returns QEMU's version.
	Version() Version

	// Process returns QEMU's process. It is an error if the monitor does not know
	// the process.
	Process() (Credentials, error)

	// Close ends the monitor; calls that still wait return an error that wraps
	// ErrClosed. The virtual machine is not touched. Closing again does nothing.
	Close() error
}

// Opener opens monitors of one QEMU, one after the other: a monitor can end
// while QEMU lives on.
type Opener interface {
	// Open opens a monitor. ctx bounds Open only, not the life of the monitor.
	//
	// The error wraps [ErrNoQEMU] only if no QEMU is there any more, or not yet.
	// An opener that does not know that returns another error.
	Open(ctx context.Context) (Monitor, error)

	// String names the monitor in messages.
	String() string

	// MarshalJSON writes the opener as a JSON object with one key, the kind of
	// the opener. Another process makes an opener of the same QEMU from it.
	MarshalJSON() ([]byte, error)
}

// Credentials identify a process and its user, as seen from this process's
// namespaces. PID is 0 if the process is not visible from here.
type Credentials struct {
	PID, UID, GID int
}

// OpenTimeout bounds one attempt of [OpenWithin] to open a monitor.
const OpenTimeout = 30 * time.Second

// OpenWithin opens a monitor of a QEMU that may just be starting. While no QEMU is
// there, OpenWithin tries again until patience has passed; 0 or less is a single
// attempt. OpenWithin returns any other error at once.
func OpenWithin(ctx context.Context, opener Opener, patience time.Duration) (Monitor, error) {
	if opener == nil {
		return nil, errors.New("qmp: no monitor is named")
	}
	if patience <= 0 {
		return openOnce(ctx, opener)
	}
	const interval = 50 * time.Millisecond
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for began := time.Now(); ; {
		monitor, err := openOnce(ctx, opener)
		if err == nil || !errors.Is(err, ErrNoQEMU) {
			return monitor, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-deadline.C:
			return nil, fmt.Errorf("%w (tried for %v)", err, max(time.Since(began), patience).Round(100*time.Millisecond))
		case <-time.After(interval):
		}
	}
}

func openOnce(ctx context.Context, opener Opener) (Monitor, error) {
	ctx, cancel := context.WithTimeout(ctx, OpenTimeout)
	defer cancel()
	return opener.Open(ctx)
}

// Socket is the path of a unix socket on which QEMU serves QMP
// (-qmp unix:PATH,server=on,wait=off).
type Socket string

// Open connects to the socket and negotiates, as [Dial] does.
func (s Socket) Open(ctx context.Context) (Monitor, error) {
	c, err := connect(ctx, string(s))
	if err != nil {
		return nil, err // and no typed nil
	}
	return c, nil
}

// String returns the path.
func (s Socket) String() string { return string(s) }

// socketJSON is a Socket as JSON.
type socketJSON struct {
	QMP *string `json:"qmp"`
}

// MarshalJSON writes {"qmp": PATH}.
func (s Socket) MarshalJSON() ([]byte, error) { return json.Marshal(socketJSON{(*string)(&s)}) }

// SocketFromJSON makes the Socket that MarshalJSON wrote.
func SocketFromJSON(b []byte) (Opener, error) {
	var s socketJSON
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("qmp: opener of a monitor: %w", err)
	}
	if s.QMP == nil {
		return nil, fmt.Errorf("qmp: opener of a monitor: %q is not of the kind \"qmp\"", printable(string(b)))
	}
	return Socket(*s.QMP), nil
}
