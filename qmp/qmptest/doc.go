// Package qmptest plays the QEMU side of QMP inside a test: a server on a unix
// socket whose answers the test scripts, and which can emit events, go silent
// and die as a real QEMU would.
//
// Like QEMU it serves one client at a time: another one that connects waits
// without a greeting until the first has gone. Commands are handled one after
// the other in the order of their arrival, so a handler that blocks holds up
// all that follow, as it would in QEMU.
//
// It is no model of QEMU: a command without a handler is refused with class
// CommandNotFound, and nothing has a meaning but what the test gives it.
package qmptest
