module github.com/vmferry/vmferry/bench

go 1.26.0

require (
	github.com/klauspost/compress v1.20.3
	github.com/vmferry/vmferry v0.0.0
	golang.org/x/sync v0.24.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/klauspost/cpuid/v2 v2.0.12 // indirect
	github.com/zeebo/blake3 v0.2.4 // indirect
	golang.org/x/time v0.16.0 // indirect
)

replace github.com/vmferry/vmferry => ..
