// Package qmp is a small client for QMP, the JSON protocol with which QEMU is
// controlled. It is for programs that migrate, save or watch a virtual machine.
// It has the commands for that with types, and executes any other by name.
//
// # Use
//
// A [Monitor] executes commands in one QEMU and delivers its events. An [Opener]
// opens one, and again if it ended while QEMU lives on. [Socket] is the opener for
// a unix socket on which QEMU serves QMP (-qmp unix:PATH,server=on,wait=off). A
// program that reaches QEMU in another way implements both interfaces, with
// [Publisher] for the events.
//
// A [Machine] has the commands with types ([Machine.QueryMigrate], [Machine.Stop])
// over any monitor. [Dial] connects to a socket in one step: its [Client] is a
// Machine and a Monitor. Machine, Client and Monitor may be used from many
// goroutines at once.
//
// # Traps
//
// A QMP socket serves one client at a time. The kernel queues the connection of a
// second client, which gets no greeting before the first disconnects; Dial fails
// after [GreetingTimeout] with [ErrBusy]. Give QEMU a second -qmp option for another
// client.
//
// QEMU answers commands in order, one at a time. A command that blocks inside
// QEMU blocks all that follow it, so every call needs a context that ends.
// The end of a call's context does not take the command back: QEMU still carries
// it out, and the client drops the answer.
//
// MIGRATION events come only when the migration capability "events" is on.
//
// A completed migration leaves the source in run state "postmigrate";
// [Machine.Cont] makes it run on.
//
// The peer is not trusted: a line may be at most [MaxMessage] bytes long, and
// anything that is not QMP ends the connection with an error that wraps
// [ErrProtocol].
package qmp
