// Package qmp is a small client for QMP, the JSON protocol with which QEMU is
// driven. It is for programs that migrate, save or watch a virtual machine;
// it knows the dozen commands which that takes and lets any other be called
// by name.
//
// # Use
//
// [Dial] connects to a monitor that QEMU serves on a unix socket
// (-qmp unix:PATH,server=on,wait=off) and negotiates. [Client.Execute] runs a
// command; the helpers ([Client.QueryMigrate], [Client.Stop] and the like) do
// the same with types. [Client.Subscribe] delivers events. One Client may be
// used from many goroutines at once.
//
// # Traps
//
// A QMP socket serves one client at a time. A second one connects (the kernel
// queues it) and then hears nothing until the first goes away; Dial gives up
// after [GreetingTimeout] with [ErrBusy]. Give QEMU a second -qmp option if
// somebody else must look in.
//
// QEMU answers commands in order, one at a time. A command that blocks inside
// QEMU blocks all that follow it, so every call needs a context that ends.
// Giving up on a call does not take the command back: QEMU still carries it
// out when it gets there, and the client drops the answer.
//
// MIGRATION events come only when the migration capability "events" is on.
//
// A completed migration leaves the source in run state "postmigrate";
// [Client.Cont] makes it run on.
//
// The peer is not trusted: a line may be at most [MaxMessage] bytes long, and
// anything that is not QMP ends the connection with an error that wraps
// [ErrProtocol].
package qmp
