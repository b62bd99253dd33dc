package migration

import "errors"

// ErrIncomplete is wrapped when the source did not send all pages of the destination's
// memory, with data or as zero.
var ErrIncomplete = errors.New("migration: memory incomplete")
