package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/vmferry/vmferry/internal/corpus"
)

const pageSize = 4096

// A page begins with three words in the machine's order (little-endian):
//
//	 0  its number
//	 8  its sequence number: how often it was rewritten
//	16  a checksum of all its other bytes
//
// and goes on with a body that depends on the two numbers.
const (
	offNumber = 0
	offSeq    = 8
	offSum    = 16
	offBody   = 24
)

// writePage writes the page with the given number and sequence number to p.
func writePage(p []byte, number, seq uint64) {
	binary.LittleEndian.PutUint64(p[offNumber:], number)
	binary.LittleEndian.PutUint64(p[offSeq:], seq)
	fillBody(p[offBody:pageSize], number, seq)
	binary.LittleEndian.PutUint64(p[offSum:], checksum(p))
}

// changePart writes the next state to a page in a few places, as a program does that updates
// counters, fields of structures and lines of text. The page then has the sequence number.
func changePart(p []byte, number, seq uint64, r *rand.Rand) {
	binary.LittleEndian.PutUint64(p[offSeq:], seq)
	binary.LittleEndian.PutUint64(p[offBody:], seq) // a counter
	for range 1 + r.IntN(4) {
		length := 8 * (1 + r.IntN(8))
		at := offBody + 8*r.IntN((pageSize-offBody-length)/8+1)
		corpus.FillGuest(p[at:at+length], number, r)
	}
	binary.LittleEndian.PutUint64(p[offSum:], checksum(p))
}

// checkPage returns an error if a page does not have the number and the sequence number, or
// is damaged. An intact page with an older sequence number is an error too.
func checkPage(p []byte, number, seq uint64) error {
	if got := binary.LittleEndian.Uint64(p[offNumber:]); got != number {
		return fmt.Errorf("page=%d holds page %d", number, got)
	}
	if got := binary.LittleEndian.Uint64(p[offSeq:]); got != seq {
		return fmt.Errorf("page=%d has seq %d, want %d", number, got, seq)
	}
	if got, want := binary.LittleEndian.Uint64(p[offSum:]), checksum(p); got != want {
		return fmt.Errorf("page=%d seq=%d has checksum %x, want %x", number, seq, got, want)
	}
	return nil
}

// checksum returns a checksum of all words of the page except the checksum itself. It
// depends on the order of the words.
func checksum(p []byte) uint64 {
	sum := uint64(0x9e3779b97f4a7c15)
	for i := 0; i < pageSize; i += 8 {
		if i == offSum {
			continue
		}
		sum = (sum ^ binary.LittleEndian.Uint64(p[i:])) * 0x2545f4914f6cdd1d
		sum ^= sum >> 29
	}
	return sum
}

// fillBody fills the body of a page: see [corpus.FillGuest].
func fillBody(b []byte, number, seq uint64) {
	corpus.FillGuest(b, number, rand.New(rand.NewPCG(number, seq)))
}
