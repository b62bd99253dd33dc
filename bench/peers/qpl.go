package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vmferry/vmferry/internal/probe/codec"
)

//go:embed qpl/qplpeer.c
var qplSource []byte

// measureQPL measures the software path of libqpl, if VMFERRY_FORKY is set. libqpl and the C
// library that it needs are newer than the other libraries, so libqpl runs in a program of
// its own, with the loader of that folder.
func measureQPL(ctx context.Context, pages []byte, passes int) ([]codec.Result, error) {
	root := os.Getenv("VMFERRY_FORKY")
	if root == "" {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "qplpeer")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source, program, corpus := filepath.Join(dir, "qplpeer.c"), filepath.Join(dir, "qplpeer"), filepath.Join(dir, "pages")
	if err := os.WriteFile(source, qplSource, 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(corpus, pages, 0o600); err != nil {
		return nil, err
	}
	libs := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	build := exec.CommandContext(ctx, "gcc", "-O3", "-march=native", "-o", program, source,
		"-idirafter", filepath.Join(root, "usr/include"), "-L", libs, "-lqpl",
		"-Wl,--allow-shlib-undefined")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building against libqpl in %s: %w\n%s", root, err, out)
	}
	run := exec.CommandContext(ctx, filepath.Join(libs, "ld-linux-x86-64.so.2"), "--library-path", libs,
		program, corpus, fmt.Sprint(passes), fmt.Sprint(piecePages))
	run.Stderr = os.Stderr
	out, err := run.Output()
	if err != nil {
		return nil, fmt.Errorf("running libqpl from %s: %w", root, err)
	}
	var results []codec.Result
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var r codec.Result
		if err := d.Decode(&r); err != nil {
			return nil, fmt.Errorf("libqpl's results: %w", err)
		}
		results = append(results, r)
	}
	return results, nil
}
