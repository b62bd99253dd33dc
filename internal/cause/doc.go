// Package cause chooses the error that explains a failure with several errors.
//
// When a migration fails, each side and each connection returns an error. The first one
// is often only the consequence of another: a connection is closed because a context
// ended or the peer failed. [Of] is the rule of the whole project.
package cause
