//go:build !noasm

package deflate

// fastAVX2 leaves pages in which a match could be too far away to groupsGo.
func fastAVX2(e *Encoder) {
	if e.match.n > maxDistance {
		e.encodeFast(groupsGo)
		return
	}
	e.encodeFast(func(e *Encoder) { groupsAVX2(e, fixedWords) })
}

// groupsAVX2 does what groupsGo does, for pages of at most maxDistance bytes.
//
//go:noescape
func groupsAVX2(e *Encoder, words *fixedTables)
