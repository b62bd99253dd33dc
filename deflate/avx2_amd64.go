//go:build !noasm

package deflate

func fastAVX2(e *Encoder) { e.encodeFast(func(e *Encoder) { groupsAVX2(e, fixedWords) }) }

//go:noescape
func groupsAVX2(e *Encoder, words *fixedTables)
