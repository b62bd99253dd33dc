// Package agreement is the conversation of the two vmferrys of a migration between two
// QEMUs. They compare their machines before a page moves, and hand the machine over at
// the end. It also identifies the links that carry QEMU's own connections.
//
// It is for package qemu, which drives the QEMUs and decides what to say.
//
// # Connections
//
// The source makes every connection, to the one address where the destination listens. With TLS
// (1.3 or later), the handshake comes first. Then the source sends a preamble of 25 bytes:
//
//	8 bytes   "vmferry" and the version, 1
//	1 byte    the kind: 1 for control, 2 for a link
//	16 bytes  the token: zeros for control; for a link the random token of READY
//
// After the preamble of a link, the bytes belong to package relay. After that of a control
// connection, both sides send messages: a u32 length (big-endian, at most 1 MiB) and a JSON
// object of that length.
//
// # Messages
//
//	type      from         fields                                       meaning
//	hello     source       description, channels, dry_run               the machine to migrate
//	answer    destination  description, differences, remarks            how the destination differs
//	prepare   source                                                    set the destination up
//	ready     destination  token                                        the links may come
//	loaded    destination  run_state                                    all has arrived; the machine is paused
//	run       source       run                                          the machine is the destination's; run: let it run
//	outcome   destination  outcome, run_state, reason                   what became of run: runs, stays or unknown
//	done      source                                                    the source expects no inquiry
//	failed    both         reason                                       the sender ends the migration
//	inquiry   source       token                                        on a new control connection: asks for the outcome
//	alive     both                                                      nothing; sent while there is nothing else to send
//
// The machine runs at the source until the source has sent run, and at the destination
// only after the destination has received it. The outcome "stays" says that the
// destination never lets the machine run. An inquiry makes a destination that has not
// received run decide for "stays".
//
// Traps: everything from the peer is bounded and checked, and no text of the peer is fit
// for a terminal: see internal/termtext.
package agreement
