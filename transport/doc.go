// Package transport makes the connections of a migration: addresses, TLS, dialing,
// accepting, and a watch that detects dead links and stalled migrations.
//
// It is for package migration, and for programs between a source and a destination,
// such as a relay.
//
// A destination listens on an [Address] and creates an [Acceptor]. Gather returns the
// [Connections] of one source: its main channel and all its multifd channels, which
// may arrive in any order. The Acceptor refuses connections of other peers, and bounds
// their number and their time. A source connects with a [Dialer]. A [Watch] observes
// the [Link] below each connection. [RequirePeer] restricts the names of the peer's
// certificate.
//
// Traps: a Link also counts reads and writes of its file descriptor, so users of the
// descriptor must obtain it from Link.SyscallConn. The Acceptor closes its listener.
package transport
