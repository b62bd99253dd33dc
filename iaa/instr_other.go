//go:build !amd64

package iaa

import "unsafe"

// No processor but x86-64 has these instructions, and hostInstructions says so,
// so that the functions below are never reached.

func hostInstructions() Instructions { return Instructions{} }

func enqcmd(_, _ unsafe.Pointer) bool { panic("iaa: ENQCMD exists on x86-64 only") }

func movdir64b(_, _ unsafe.Pointer) { panic("iaa: MOVDIR64B exists on x86-64 only") }

func umwait(_ *uint32, _ uint32, _ uint64) { panic("iaa: UMWAIT exists on x86-64 only") }

func tpause(uint64) { panic("iaa: TPAUSE exists on x86-64 only") }

// pause has nothing to execute: the caller's loop is the pause.
func pause(uint32) {}
