package linkwire

import (
	"encoding/binary"
	"errors"
)

// A difference between two pages of the same size is a series of
//
//	uvarint words that are equal   uvarint words that follow   the words
//
// where a word has 8 bytes. Words after the series are equal.

const word = 8

// appendDifference appends the difference of page to base. It returns ok false, and b
// unchanged, if the difference would have more than most bytes.
func appendDifference(b, base, page []byte, most int) (_ []byte, ok bool) {
	start := len(b)
	base = base[:len(page)]
	for at := 0; ; {
		same := at
		for at+word <= len(page) && binary.NativeEndian.Uint64(base[at:]) == binary.NativeEndian.Uint64(page[at:]) {
			at += word
		}
		if at+word > len(page) {
			return b, true
		}
		first := at
		for at+word <= len(page) && binary.NativeEndian.Uint64(base[at:]) != binary.NativeEndian.Uint64(page[at:]) {
			at += word
		}
		if len(b)-start+2*binary.MaxVarintLen16+at-first > most {
			return b[:start], false
		}
		b = binary.AppendUvarint(b, uint64(first-same)/word)
		b = binary.AppendUvarint(b, uint64(at-first)/word)
		b = append(b, page[first:at]...)
	}
}

var errDifference = errors.New("a difference that reaches beyond the page or is incomplete")

// applyDifference changes page, which holds the base, by a difference.
func applyDifference(page, diff []byte) error {
	at := uint64(0)
	words := uint64(len(page)) / word
	for len(diff) > 0 {
		same, n := binary.Uvarint(diff)
		if n <= 0 {
			return errDifference
		}
		count, m := binary.Uvarint(diff[n:])
		if m <= 0 || same > words-at || count > words-at-same || count*word > uint64(len(diff)-n-m) {
			return errDifference
		}
		at += same
		diff = diff[n+m:]
		copy(page[at*word:], diff[:count*word])
		diff = diff[count*word:]
		at += count
	}
	return nil
}
