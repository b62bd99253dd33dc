package iaa

import "sync/atomic"

// Record is a completion record as the device writes it: 64 bytes,
// little-endian. The device writes the first word last, so a record may be read
// only after Load has returned a status other than StatusPending.
type Record struct {
	word           uint32 // 0x00 status, 0x01 error code, 0x02 fault info: one atomic word
	BytesCompleted uint32 // 0x04 bytes of source 1 consumed
	FaultAddr      uint64 // 0x08
	InvalidFlags   uint32 // 0x10
	_              uint32 // 0x14
	OutputSize     uint32 // 0x18 bytes written to the destination
	OutputBits     uint8  // 0x1c bits used of the last byte
	_              uint8  // 0x1d
	XOR            uint16 // 0x1e
	CRC            uint32 // 0x20
	Min            uint32 // 0x24
	Max            uint32 // 0x28
	Sum            uint32 // 0x2c
	_              [16]byte
}

// Completion is the first word of a record: three bytes about the outcome.
type Completion struct {
	Status    Status
	Code      Code  // valid with StatusAnalyticsError
	FaultInfo uint8 // valid with the page fault statuses
}

// Load reads the record's first word atomically.
func (r *Record) Load() Completion {
	w := atomic.LoadUint32(&r.word)
	return Completion{Status(w), Code(w >> 8), uint8(w >> 16)}
}

// Store writes the record's first word atomically, after all other fields, as a device
// does. Models of devices use it.
func (r *Record) Store(c Completion) {
	atomic.StoreUint32(&r.word, uint32(c.Status)|uint32(c.Code)<<8|uint32(c.FaultInfo)<<16)
}

// clear prepares the record for a submission. It clears all fields, so that a success
// without the other fields is detected.
func (r *Record) clear() {
	r.BytesCompleted, r.FaultAddr, r.InvalidFlags = 0, 0, 0
	r.OutputSize, r.OutputBits, r.XOR, r.CRC = 0, 0, 0, 0
	r.Min, r.Max, r.Sum = 0, 0, 0
	atomic.StoreUint32(&r.word, 0)
}
