package migration

import "errors"

// ErrIncomplete is wrapped when a destination's memory has pages that the source did
// not name, with data or as zero.
var ErrIncomplete = errors.New("the memory is not complete")
