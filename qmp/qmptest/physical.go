package qmptest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
)

// ServePhysical makes human-monitor-command answer "info mtree -f" and "xp /Ngx ADDRESS"
// as a machine does whose only RAM is a block at address 0. page fills in the 4 KiB at an
// address. Memory beyond the block cannot be accessed. Other lines are refused, as QEMU
// does, by text.
func (s *script) ServePhysical(block string, size uint64, page func(addr uint64, content []byte)) {
	s.Handle("human-monitor-command", func(_ context.Context, args json.RawMessage) (any, error) {
		var line struct {
			Text string `json:"command-line"`
		}
		if err := json.Unmarshal(args, &line); err != nil {
			return nil, err
		}
		if line.Text == "info mtree -f" {
			return fmt.Sprintf("FlatView #0\n AS \"memory\", root: system\n Root memory region: system\n"+
				"  %016x-%016x (prio 0, ram): %s\n", 0, size-1, block), nil
		}
		var words int
		var addr uint64
		if n, err := fmt.Sscanf(line.Text, "xp /%dgx 0x%x", &words, &addr); n != 2 || err != nil || words > 512 {
			return fmt.Sprintf("unknown command: '%s'\r\n", line.Text), nil
		}
		if addr >= size {
			return fmt.Sprintf("%016x: Cannot access memory\r\n", addr), nil
		}
		const pageSize = 4096
		content := make([]byte, 2*pageSize)
		page(addr&^(pageSize-1), content[:pageSize])
		page(addr&^(pageSize-1)+pageSize, content[pageSize:])
		return dump(addr, content[addr%pageSize:][:8*words]), nil
	})
}

// dump prints memory as the monitor's xp does.
func dump(addr uint64, mem []byte) string {
	var b strings.Builder
	for i := 0; i < len(mem); i += 16 {
		fmt.Fprintf(&b, "%016x:", addr+uint64(i))
		for j := i; j < min(i+16, len(mem)); j += 8 {
			fmt.Fprintf(&b, " 0x%016x", binary.LittleEndian.Uint64(mem[j:]))
		}
		b.WriteString("\r\n")
	}
	return b.String()
}
