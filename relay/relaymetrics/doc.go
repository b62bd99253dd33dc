// Package relaymetrics shows what a relay does to Prometheus. It is apart from package
// relay, so that a program that imports only the latter depends on no metrics library.
//
// It is for the command "vmferry relay" and for migration proxies: [Collector] goes into
// a registry that the program has already, [Serve] is a server of its own.
//
// Counters of a migration have its machine's UUID as their label, and end with the
// migration: there are never more series than migrations under way. Those of the whole
// relay go on.
//
// Traps: the server has no TLS and knows no users. It shows which machines move: listen on
// a loopback address, or on a unix socket.
package relaymetrics
