// Package linkwire is the wire between two relays: the bytes of one QEMU connection as
// frames, in which pages take the cheapest form. docs/link-format.md describes it.
//
// It is for package relay. On the side of the source, a [Splitter] takes a QEMU
// connection apart into units, and an [Encoder] makes a frame of each. On the side of
// the destination, a [Decoder] makes the same bytes of the frames. A [SenderCache] and a
// [ReceiverCache] hold the pages of one migration on the two sides: they serve all its
// connections.
//
// A page has one of five forms: zero, raw, deflated, a difference to the page that was
// sent for the same place before, or a reference to an equal page. A base or a
// referenced page is used only after the other side has acknowledged the frame that
// carried it.
//
// Traps: an Encoder and a Decoder belong to one goroutine. The bytes that a Decoder
// returns are valid until its next call. The frames of a connection have to arrive in
// the order in which the Encoder made them. A Decoder needs no trust in its peer: it
// bounds its memory by the sizes in this package, and verifies what it takes from the
// cache.
package linkwire
