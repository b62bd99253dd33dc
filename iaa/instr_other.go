//go:build !amd64

package iaa

import "unsafe"

// Only x86-64 has these instructions. hostInstructions reports none, so that the
// functions below are never called.

func hostInstructions() Instructions { return Instructions{} }

func enqcmd(_, _ unsafe.Pointer) bool { panic("iaa: ENQCMD exists on x86-64 only") }

func movdir64b(_, _ unsafe.Pointer) { panic("iaa: MOVDIR64B exists on x86-64 only") }

func umwait(_ *uint32, _ uint32, _ uint64) { panic("iaa: UMWAIT exists on x86-64 only") }

func tpause(uint64) { panic("iaa: TPAUSE exists on x86-64 only") }

// pause does nothing: the caller's loop is the pause.
func pause(uint32) {}
