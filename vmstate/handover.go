package vmstate

// The handover codes: values of PINGs on the main channel, and of PONGs on the return
// path, by which two Go programs (package live) hand a machine over. They are vmferry's
// own. Other destinations answer them like any PING.
//
//	source                                  destination
//	HandoverRequest, after opening
//	the return path                    ──►  expects a handover
//	all pages, the device state        ──►  has loaded everything
//	                                   ◄──  HandoverPrepared
//	HandoverRun                        ──►  starts the machine, once
//	                                   ◄──  SHUT 0: the machine runs
//	HandoverGone                       ──►  expects no inquiry
//
// Before it sends HandoverRun, a source that fails keeps running the machine, and the
// destination never starts it. After HandoverRun, a source that loses its connections
// does not know whether the destination runs the machine: it connects again and sends
// HandoverInquire. A destination that has not received HandoverRun by then never runs
// the machine. The answer is SHUT 0 (the machine runs there) or SHUT 1 (the machine
// never runs there).
const (
	HandoverRequest  = 0x56464830 // "VFH0"
	HandoverPrepared = 0x56464831
	HandoverRun      = 0x56464832
	HandoverGone     = 0x56464833
	HandoverAbort    = 0x56464834
	HandoverInquire  = 0x56464835
	// HandoverStay replaces HandoverRequest when the machine stays at the source.
	HandoverStay = 0x56464836
)
