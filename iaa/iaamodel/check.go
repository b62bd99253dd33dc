package iaamodel

import "github.com/vmferry/vmferry/iaa"

// maxDecompressFlags are the decompress flags this model knows: one whole stream.
const knownDecompressFlags = iaa.DecompressWhole

// check returns the status that a device reports for an error in the descriptor, or
// StatusPending if there is none. It does not check the record's alignment: a record
// that is not aligned cannot be written to.
func (m *Machine) check(q *queue, d *iaa.Descriptor) iaa.Status {
	op, flags := d.Op(), d.Flags()
	switch {
	case op != iaa.OpNoop && op != iaa.OpDrain && op != iaa.OpCompress && op != iaa.OpDecompress:
		return iaa.StatusBadOpcode
	case d.Priv != 0, d.Interrupt != 0:
		return iaa.StatusReservedNonzero
	case !flagsAllowed(q, op, flags):
		return iaa.StatusBadFlags
	}
	if op == iaa.OpNoop || op == iaa.OpDrain {
		bare := iaa.Descriptor{OpFlags: d.OpFlags, Record: d.Record}
		if *d != bare {
			return iaa.StatusReservedNonzero
		}
		return iaa.StatusPending
	}
	return m.checkCodec(q, d)
}

// flagsAllowed returns the flags that are allowed for one job at a time.
func flagsAllowed(q *queue, op iaa.Opcode, flags iaa.Flags) bool {
	allowed := iaa.FlagRecordValid | iaa.FlagRequestCompletion | iaa.FlagCacheControl
	if op == iaa.OpCompress || op == iaa.OpDecompress {
		allowed |= iaa.FlagReadAECS
		if q.cfg.BlockOnFault {
			allowed |= iaa.FlagBlockOnFault
		}
	}
	if flags&^allowed != 0 {
		return false
	}
	return flags&iaa.FlagRequestCompletion == 0 || flags&iaa.FlagRecordValid != 0
}

func (m *Machine) checkCodec(q *queue, d *iaa.Descriptor) iaa.Status {
	readsAECS := d.Flags()&iaa.FlagReadAECS != 0
	switch {
	case d.Filter != 0, d.Inputs != 0, !readsAECS && (d.Src2 != 0 || d.Src2Size != 0):
		return iaa.StatusReservedNonzero
	case readsAECS && (d.Src2%32 != 0 || d.Src2Size%32 != 0):
		return iaa.StatusAECSAlignment
	case d.Src1Size == 0, d.Src1Size > q.cfg.MaxTransfer, d.MaxDst == 0, d.MaxDst > q.cfg.MaxTransfer:
		return iaa.StatusBadSize
	case readsAECS && d.Src2Size != iaa.AECSSize:
		return iaa.StatusBadSize
	case d.Src1 < d.Dst+uint64(d.MaxDst) && d.Dst < d.Src1+uint64(d.Src1Size):
		return iaa.StatusOverlap
	}
	if d.Op() == iaa.OpDecompress {
		if readsAECS || d.CodecFlags&^knownDecompressFlags != 0 || d.CodecFlags&iaa.DecompressEnable == 0 {
			return iaa.StatusBadCodecFlags
		}
		return iaa.StatusPending
	}
	return m.checkCompress(q, d, readsAECS)
}

// checkCompress allows statistics, compressing with an AECS, and on version 2
// compressing with tables of the device's own.
func (m *Machine) checkCompress(q *queue, d *iaa.Descriptor, readsAECS bool) iaa.Status {
	switch f := d.CodecFlags; {
	case f == iaa.CompressStatistics:
		if d.MaxDst < iaa.HistogramSize {
			return iaa.StatusBadSize
		}
		if readsAECS {
			return iaa.StatusBadCodecFlags
		}
		return iaa.StatusPending
	case f&^(iaa.CompressFlush|iaa.CompressEndBlock) == 0 && readsAECS:
		return iaa.StatusPending
	case f == iaa.CompressWhole|iaa.CompressOnePassHeader && !readsAECS && q.dev.cfg.Version >= 0x200:
		return iaa.StatusPending
	}
	return iaa.StatusBadCodecFlags
}
