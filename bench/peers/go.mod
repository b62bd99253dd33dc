module github.com/vmferry/vmferry/bench/peers

go 1.26.8

require (
	github.com/klauspost/compress v1.20.3
	github.com/vmferry/vmferry v0.0.0
)

require golang.org/x/sys v0.49.0

replace github.com/vmferry/vmferry => ../..
