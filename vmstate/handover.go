package vmstate

// The words of the verified handover between two Go programs (package live), as values
// of PINGs on the main channel and of PONGs on the return path. To other destinations
// they mean nothing, and are answered by a PONG of the same value.
//
//	source                             destination
//	WordAsk, with the return path ──►  knows that a handover will come
//	all pages, the device state   ──►  has everything in place
//	                              ◄──  WordPrepared
//	WordRun                       ──►  may start the machine, once
//	                              ◄──  SHUT 0: the machine runs
//	WordGone                      ──►  no inquiry will come
//
// Up to WordRun a source that fails goes on running, and the destination never starts.
// After WordRun a source that loses its connections does not know whether the
// destination runs: it connects again and says WordInquire. A destination that has not
// had WordRun then refuses it for good. The answer is SHUT 0 (the machine runs) or
// SHUT 1 (the machine never runs there).
const (
	WordAsk      = 0x56464830 // "VFH0"
	WordPrepared = 0x56464831
	WordRun      = 0x56464832
	WordGone     = 0x56464833
	WordAbort    = 0x56464834
	WordInquire  = 0x56464835
	// WordStay, with the return path, says that the machine stays at the source.
	WordStay = 0x56464836
)
