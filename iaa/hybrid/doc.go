// Package hybrid compresses and inflates packets of pages on an accelerator and on the
// processor at the same time. It serves one channel of a migration, which works on
// packets of about a hundred pages and needs each packet complete before it continues.
//
// A Channel submits pages of a packet to the device from the front while its own
// goroutine works on pages from the back, until the two meet. Packets overlap: the next
// one is started before the last one is finished, so that the device's queue is never
// empty between them:
//
//	next, err := ch.Compress(pages)      // the device begins
//	err = current.Finish(ctx)            // processor and device end the one before
//	write(current.Outputs())
//	current.Release()
//
// Pages that the device fails at are done in software and counted by cause: too many
// page faults, a full queue, a job that never ends, a damaged record. Without a device,
// all pages are done in software. The loss of the last queue is an error only with
// Config.Require.
//
// # Traps
//
// A Channel is for use by one goroutine. Pages must stay mapped from Compress or
// Inflate until Finish has returned nil or Close has returned. Memory that is not
// registered with the device is copied; see package iaa.
//
// If an inflate job straight into registered memory does not complete, Finish waits
// until the device no longer has it. If that fails, the error wraps iaa.ErrUndrained:
// the device may still write there, and the memory must not be handed to a guest.
package hybrid
