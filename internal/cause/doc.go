// Package cause chooses the error that explains a failure which several places saw.
//
// When a migration breaks, each side and each connection sees an error, and the first
// one is often only the echo of another: a connection that is closed because a context
// ended, or because the peer failed. [Of] is the one rule by which the project chooses.
package cause
