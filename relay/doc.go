// Package relay carries live migrations between two QEMUs that know nothing of it: a
// relay beside the source's QEMU and a relay beside the destination's, with a link
// between them. What one relay reads from its QEMU, the other writes to the other QEMU,
// byte for byte and in both directions. On the link, pages are compressed, replaced by
// differences or by references to pages that the other side has.
//
// It is for programs that stand between two QEMUs, such as a migration proxy: where
// they copy bytes with io.Copy, they call [Relay.Source] on one host and
// [Relay.Destination] on the other. [Relay.ServeSource] and [Relay.ServeDestination]
// also accept and dial.
//
// Traps: a link needs a relay at both ends. Nothing here verifies the peer: the caller
// dials and accepts links with TLS. QEMU's connections have to be carried in the order
// in which QEMU makes them, which ServeDestination observes and Destination leaves to
// its caller.
package relay
