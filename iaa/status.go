package iaa

import "fmt"

// Status is the first byte of a completion record. Bit 7 distinguishes a fault on a
// write from one on a read; Class masks it.
type Status uint8

// Statuses a device reports.
const (
	StatusPending          Status = 0x00
	StatusSuccess          Status = 0x01
	StatusReadFault        Status = 0x03
	StatusInvalidRead      Status = 0x04
	StatusAnalyticsError   Status = 0x0a
	StatusOutputOverflow   Status = 0x0b
	StatusBadOpcode        Status = 0x10
	StatusBadFlags         Status = 0x11
	StatusReservedNonzero  Status = 0x12
	StatusBadSize          Status = 0x13
	StatusOverlap          Status = 0x16
	StatusBadInterrupt     Status = 0x19
	StatusRecordFault      Status = 0x1a
	StatusRecordAlignment  Status = 0x1b
	StatusAECSAlignment    Status = 0x1c
	StatusHardwareError    Status = 0x20
	StatusReadbackError    Status = 0x21
	StatusTranslationError Status = 0x22
	StatusFaultTimeout     Status = 0x23
	StatusWatchdog         Status = 0x24
	StatusBadCodecFlags    Status = 0x30
	StatusBadFilterFlags   Status = 0x31
	StatusBadInputSize     Status = 0x32
	StatusBadElementCount  Status = 0x33
	StatusBadSrc1Width     Status = 0x34
	StatusBadInvertOutput  Status = 0x35
	StatusWriteFault       Status = 0x83
	StatusInvalidWrite     Status = 0x84
)

var statusText = map[Status][2]string{
	StatusPending:          {"pending", "the job has not completed"},
	StatusSuccess:          {"success", "the job is done"},
	StatusReadFault:        {"read page fault", "the device read a page that is not present"},
	StatusInvalidRead:      {"invalid page response on read", "the kernel could not make the page present for the device"},
	StatusAnalyticsError:   {"analytics error", "the data could not be processed; the code says why"},
	StatusOutputOverflow:   {"output overflow", "the output is larger than the destination"},
	StatusBadOpcode:        {"unsupported opcode", "the device or queue does not offer the operation"},
	StatusBadFlags:         {"invalid flags", "an operation flag is not allowed here"},
	StatusReservedNonzero:  {"reserved field not zero", "a reserved field of the descriptor is set"},
	StatusBadSize:          {"invalid size", "a size is zero, or above what device or queue allow"},
	StatusOverlap:          {"overlapping buffers", "source and destination overlap"},
	StatusBadInterrupt:     {"invalid interrupt handle", "the interrupt handle is not allocated"},
	StatusRecordFault:      {"completion record fault", "the page of the completion record is not present"},
	StatusRecordAlignment:  {"completion record alignment", "the completion record is not aligned to 64 bytes"},
	StatusAECSAlignment:    {"AECS alignment", "address or size of the AECS is not a multiple of 32"},
	StatusHardwareError:    {"hardware error", "the device failed"},
	StatusReadbackError:    {"hardware error on readback", "the device failed to read its write back"},
	StatusTranslationError: {"address translation failed", "the IOMMU refused the address"},
	StatusFaultTimeout:     {"page request timed out", "the kernel did not answer a page fault in time"},
	StatusWatchdog:         {"watchdog expired", "the operation took longer than the device allows"},
	StatusBadCodecFlags:    {"invalid codec flags", "a compress or decompress flag is not allowed here"},
	StatusBadFilterFlags:   {"invalid filter flags", "a filter flag is not allowed here"},
	StatusBadInputSize:     {"invalid input size", "the input size does not fit the operation"},
	StatusBadElementCount:  {"invalid number of elements", "the number of elements does not fit the operation"},
	StatusBadSrc1Width:     {"invalid source width", "the source element width is not supported"},
	StatusBadInvertOutput:  {"invalid output inversion", "output inversion is not allowed here"},
	StatusWriteFault:       {"write page fault", "the device wrote to a page that is not present or not writable"},
	StatusInvalidWrite:     {"invalid page response on write", "the kernel could not make the page writable for the device"},
}

// Class returns the status without the bit that distinguishes reads from writes.
func (s Status) Class() Status { return s & 0x3f }

// Known reports whether devices report this status.
func (s Status) Known() bool { _, ok := statusText[s]; return ok }

// String returns the status's name and number.
func (s Status) String() string {
	if t, ok := statusText[s]; ok {
		return fmt.Sprintf("%s (%#02x)", t[0], uint8(s))
	}
	return fmt.Sprintf("unknown status (%#02x)", uint8(s))
}

// Meaning explains the status in a sentence.
func (s Status) Meaning() string {
	if t, ok := statusText[s]; ok {
		return t[1]
	}
	return "unknown to this driver: the record is damaged or was not written by a device"
}

// isFault reports whether the job may succeed after its memory was touched.
func (s Status) isFault() bool {
	switch s.Class() {
	case StatusReadFault, StatusInvalidRead, StatusRecordFault:
		return true
	}
	return false
}

// isHardware reports a failure of the device, not of the descriptor.
func (s Status) isHardware() bool { return s >= StatusHardwareError && s <= StatusWatchdog }

// Code is the error code beside StatusAnalyticsError.
type Code uint8

// The codes that inflating and compressing can give.
const (
	CodeHeaderTruncated Code = 1 // the source ends within a block header
	CodeCodeLenSymbol   Code = 2 // code length code that no symbol has
	CodeLitLenRepeat    Code = 3 // the first code length of a table repeats none
	CodeDistRepeat      Code = 4
	CodeNoLitLen        Code = 5
	CodeLitLenCount     Code = 6 // a repeat reaches beyond the table
	CodeDistCount       Code = 7
	CodeCodeLenTable    Code = 8 // more codes of a length than there can be
	CodeLitLenTable     Code = 9
	CodeDistTable       Code = 10
	CodeLitLenSymbol    Code = 11 // bits that are no symbol's code
	CodeDistSymbol      Code = 12
	CodeBlockType       Code = 13
	CodeStoredLength    Code = 14
	CodeMissingEOB      Code = 15
	CodeBadLength       Code = 16
	CodeBadDistance     Code = 17
	CodeBeforeStart     Code = 18
	CodeAECS            Code = 22
	CodeShortSource1    Code = 23
	CodeShortSource2    Code = 24
	CodeOutputOverflow  Code = 25
	CodeSymbolNoCode    Code = 30
	CodeTooManyLitLen   Code = 35
	CodeTooManyDist     Code = 36
)

var codeText = map[Code]string{
	CodeHeaderTruncated: "source ends within a block header",
	CodeCodeLenSymbol:   "invalid code in the code length list",
	CodeLitLenRepeat:    "literal table begins with a repeat",
	CodeDistRepeat:      "distance table begins with a repeat",
	CodeNoLitLen:        "empty literal table",
	CodeLitLenCount:     "literal table too long",
	CodeDistCount:       "distance table too long",
	CodeCodeLenTable:    "oversubscribed code length table",
	CodeLitLenTable:     "oversubscribed literal table",
	CodeDistTable:       "oversubscribed distance table",
	CodeLitLenSymbol:    "invalid literal or length code",
	CodeDistSymbol:      "invalid distance code",
	CodeBlockType:       "block type 3",
	CodeStoredLength:    "length of a stored block and its complement differ",
	CodeMissingEOB:      "source ends before the end of the block",
	CodeBadLength:       "invalid match length",
	CodeBadDistance:     "distance zero, or beyond the 4 KiB history",
	CodeBeforeStart:     "match from before the start of the output",
	CodeAECS:            "invalid AECS",
	CodeShortSource1:    "source 1 too short",
	CodeShortSource2:    "source 2 too short",
	CodeOutputOverflow:  "output overflow",
	CodeSymbolNoCode:    "symbol without a code in the table",
	CodeTooManyLitLen:   "more than 286 literal and length codes",
	CodeTooManyDist:     "more than 30 distance codes",
}

// String explains the code.
func (c Code) String() string {
	what, ok := codeText[c]
	if !ok {
		what = "unknown"
	}
	return fmt.Sprintf("%s (code %d)", what, uint8(c))
}
