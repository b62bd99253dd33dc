package qemu

import "github.com/vmferry/vmferry/multifd"

// SourceLevels returns the compression levels that QEMU as the source has for
// the method: those of its parameters multifd-zlib-level, multifd-zstd-level
// and multifd-qatzip-level. The accelerator methods of QEMU have none.
func SourceLevels(m multifd.Method) multifd.Levels {
	switch m {
	case multifd.Zlib:
		return multifd.Levels{Least: 1, Most: 9}
	case multifd.Zstd:
		return multifd.Levels{Least: 1, Most: 20}
	case multifd.QATzip:
		return multifd.Levels{Least: 1, Most: 9}
	}
	return multifd.Levels{}
}
