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
// A Relay carries any number of migrations at once. The memory of a connection has a
// bound, and back-pressure reaches QEMU when it is used: at most four packets of a
// connection are under way. Up to so many MiB are in use for a connection, by what the
// relay beside its source sends:
//
//	Compression    source    destination
//	None                3              2
//	QPL, Zstd          12              7
//	Auto               21             12
//
// A zstd stream with its window of 4 MiB takes most of that, and Auto can have two of
// them. A connection that carries nothing takes 0.1 MiB. To that comes for each migration
// its cache, on both sides, and 4 MiB at the source; over TCP, a migration is known by
// its machine's UUID, and without one each channel has a cache of its own. So a relay
// beside the source with c connections of m migrations uses up to 21c + (Cache + 4)m MiB,
// and one beside the destination 12c + Cache*m. Go's heap grows to twice what is in use,
// unless GOGC or GOMEMLIMIT say otherwise.
//
// Traps: a link needs a relay at both ends. Nothing here verifies the peer: the caller
// dials and accepts links with TLS. QEMU's connections have to arrive in the order in
// which QEMU makes them: Destination waits for the earlier ones, by the order in which
// Source was called. ServeSource keeps that order; other callers start Source for one
// connection before they accept the next. CPUs bounds the whole process: a program that
// has other work gives a bound for both, or none.
package relay
