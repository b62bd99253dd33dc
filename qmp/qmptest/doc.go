// Package qmptest plays the QEMU side of QMP inside a test. The test sets the
// answers to commands, and emits events, keeps silent and ends QEMU as a real one
// can. [Server] listens on a unix socket; [Memory] is a [qmp.Opener] without a
// socket.
//
// A Server serves one client at a time, as QEMU does: another client gets no
// greeting before the first has disconnected. Commands are carried out one after
// the other in the order of their arrival, so a handler that blocks delays all
// commands that follow, as in QEMU.
//
// The package is no model of QEMU: a command without a handler is refused with
// class CommandNotFound, and a command does only what its handler does.
package qmptest
