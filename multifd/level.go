package multifd

import (
	"errors"
	"fmt"
)

// ErrLevel is wrapped if a method does not have the requested compression level.
var ErrLevel = errors.New("no such compression level")

// Levels are the compression levels of a method, from Least to Most. The zero value
// means no levels.
type Levels struct{ Least, Most int }

// String describes the levels for errors and help texts.
func (l Levels) String() string {
	if l == (Levels{}) {
		return "no levels"
	}
	return fmt.Sprintf("the levels %d to %d", l.Least, l.Most)
}

// Check returns an error unless level is a level of the method called name. Level 0 is
// the default of every method.
func (l Levels) Check(name string, level int) error {
	if level == 0 || l != (Levels{}) && level >= l.Least && level <= l.Most {
		return nil
	}
	if l == (Levels{}) {
		return fmt.Errorf("%w: %d: method %s has no levels (want 0)", ErrLevel, level, name)
	}
	return fmt.Errorf("%w: %d: method %s has %v (want one of them, or 0 for its default)", ErrLevel, level, name, l)
}

// CheckLevel returns an error unless a Sender of the method has the level.
func CheckLevel(m Method, level int) error { return m.Levels().Check(m.Name(), level) }
