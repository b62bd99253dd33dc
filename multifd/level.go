package multifd

import (
	"errors"
	"fmt"
)

// ErrLevel is wrapped when a method does not have the compression level asked for.
var ErrLevel = errors.New("no such compression level")

// Levels are the compression levels of a method, from Least to Most. The zero
// value is that of a method without levels.
type Levels struct{ Least, Most int }

// String names the levels, as errors and help say them.
func (l Levels) String() string {
	if l == (Levels{}) {
		return "no levels"
	}
	return fmt.Sprintf("the levels %d to %d", l.Least, l.Most)
}

// Check says whether the level is one of the levels of the method called name.
// Level 0 is the default of every method.
func (l Levels) Check(name string, level int) error {
	if level == 0 || l != (Levels{}) && level >= l.Least && level <= l.Most {
		return nil
	}
	if l == (Levels{}) {
		return fmt.Errorf("%w: %d: method %s has no levels (want 0)", ErrLevel, level, name)
	}
	return fmt.Errorf("%w: %d: method %s has %v (want one of them, or 0 for its default)", ErrLevel, level, name, l)
}

// CheckLevel says whether a Sender of the method has the level.
func CheckLevel(m Method, level int) error { return m.Levels().Check(m.Name(), level) }
