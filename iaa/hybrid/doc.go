// Package hybrid carries packets of pages through an accelerator and a processor
// at once. It is for one channel of a migration, which compresses or inflates up
// to a hundred or so pages at a time and wants them all back before it goes on.
//
// A Channel submits pages of a packet to the device from the front while its own
// goroutine works on pages from the back, until the two meet. Packets overlap:
// the next one is started before the last one is finished, so that the queue
// never runs dry between them:
//
//	next, err := ch.Compress(pages)      // the device begins
//	err = current.Finish(ctx)            // processor and device end the one before
//	write(current.Outputs())
//	current.Release()
//
// What the device fails at is done in software, and counted by cause: a page fault
// too many, a full queue, a job that never ends, a damaged record. Without a
// device at all, everything is software. Only with Config.Require is the loss of
// the last queue an error.
//
// # Traps
//
// A Channel is for one goroutine. Pages must stay where they are from Compress or
// Inflate until Finish has returned nil, or Close has. Memory that is not
// registered with the device is copied; see package iaa.
//
// If an inflate job straight into registered memory does not complete, Finish
// first makes sure that the device no longer has it. Where that is impossible the
// error answers to iaa.ErrUndrained: the device may still write there, and the
// memory must not be handed to a guest.
package hybrid
