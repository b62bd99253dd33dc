package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// exits STATUS COMMAND ARGS... runs a command and wants that exit status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	status, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if (got == status) == neg {
		ts.Fatalf("the exit status is %d, not %d", got, status)
	}
}

// forge SNAPSHOT OLD NEW replaces text in a manifest and makes its digest right
// again.
func forge(ts *testscript.TestScript, neg bool, args []string) {
	path := filepath.Join(ts.MkAbs(args[0]), "manifest.json")
	text, err := os.ReadFile(path)
	ts.Check(err)
	const digest = ",\n  \"sha256\": \""
	body := string(text[:strings.LastIndex(string(text), digest)])
	forged := strings.Replace(body, args[1], args[2], 1)
	if forged == body {
		ts.Fatalf("%s does not have %s", path, args[1])
	}
	ts.Check(os.WriteFile(path, fmt.Appendf(nil, "%s%s%x\"\n}\n", forged, digest, sha256.Sum256([]byte(forged))), 0o600))
}

// lastjson KEY PATTERN wants the last line of stdout to be a JSON object that
// has the key, with a value that matches.
func lastJSON(ts *testscript.TestScript, neg bool, args []string) {
	lines := strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\n"), "\n")
	var object map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &object); err != nil {
		ts.Fatalf("the last line of stdout is no JSON object: %q: %v", lines[len(lines)-1], err)
	}
	value, ok := object[args[0]]
	if match, err := regexp.MatchString(args[1], fmt.Sprint(value)); err != nil || (ok && match) == neg {
		ts.Fatalf("%s is %q in %s (want %s; %v)", args[0], value, lines[len(lines)-1], args[1], err)
	}
}
