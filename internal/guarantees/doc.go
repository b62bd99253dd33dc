// Package guarantees holds no code, only tests of what the whole module promises:
//
//   - memory is bounded by the bytes that came (decoders_test.go);
//   - every wait has an end (waits_test.go);
//   - a command that succeeds has written what can be read back (commands_test.go);
//   - this program removes only what it made, and as root resolves no path in a
//     directory of another user (files_test.go).
//
// Each promise has a table. The tests read the module's source: a new decoder, wait,
// command or change of the file system fails them until it has a line there, which
// says why it keeps the promise and names the test that shows it.
package guarantees
