package iaamodel

import (
	"encoding/binary"
	"testing"

	"github.com/vmferry/vmferry/iaa"
)

func TestAECS_Limits(t *testing.T) {
	mem := make([]byte, iaa.AECSSize)
	var a aecs
	if !a.parse(mem) {
		t.Error("zeroed AECS refused")
	}
	binary.LittleEndian.PutUint32(mem[iaa.AECSValidBits:], 8*iaa.AECSAccumulated+1)
	if a.parse(mem) {
		t.Error("more valid bits than the accumulator has accepted")
	}
	binary.LittleEndian.PutUint32(mem[iaa.AECSValidBits:], 0)
	binary.LittleEndian.PutUint32(mem[iaa.AECSDist+4*29:], 16<<15)
	if a.parse(mem) {
		t.Error("code of 16 bits accepted")
	}
}
