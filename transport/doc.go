// Package transport makes the connections of a migration: addresses, TLS, dialing,
// accepting, and the watch that notices a peer that is gone or stands still.
//
// It is for package migration, and for programs that stand between a source and a
// destination, such as a relay.
//
// A destination listens at an [Address] and makes an [Acceptor], whose Gather returns
// the [Connections] of one source: its main channel and all multifd channels, in any
// order of arrival. Connections of other peers are refused, and are bounded in number
// and in time. A source dials by a [Dialer]. A [Watch] looks at the [Link] below each
// connection. [RequirePeer] bounds whom TLS takes.
//
// Traps: a Link counts reads and writes of the descriptor too, so a user of the
// descriptor has to take it from Link.SyscallConn. A listener is closed by its Acceptor.
package transport
