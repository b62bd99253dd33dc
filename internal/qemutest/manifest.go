package qemutest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNotSetUp is wrapped by errors about a missing file that scripts/setup prepares.
var ErrNotSetUp = errors.New("run scripts/setup")

const manifestName = "qemu.env"

// manifest has the paths of the QEMUs and of the guest. scripts/setup writes it.
type manifest map[string]string

// qemuKeys maps the supported versions of QEMU to their names in the manifest.
var qemuKeys = map[string]string{
	"11.1": "QEMU_11_1",
	"10.0": "QEMU_10_0",
	"7.2":  "QEMU_7_2",
}

// Versions returns the versions of QEMU that tests use, the oldest first. It omits 11.1 if
// scripts/setup could not get it. In CI (the variable CI is set) it omits none, and a
// machine with a missing version fails with [ErrNotSetUp].
func Versions() []string {
	versions := []string{"7.2", "10.0"}
	m, err := readManifest()
	if err != nil || m[qemuKeys["11.1"]] != "" || os.Getenv("CI") != "" {
		versions = append(versions, "11.1")
	}
	return versions
}

// Has reports whether Versions has all the given versions.
func Has(versions ...string) bool {
	all := Versions()
	for _, version := range versions {
		if !slices.Contains(all, version) {
			return false
		}
	}
	return true
}

// readManifest finds and reads the manifest.
func readManifest() (manifest, error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, manifestName)
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("qemutest: %w: %w", ErrNotSetUp, err)
	}
	defer f.Close()
	m := make(manifest)
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("qemutest: %w: %s, line %d: want NAME=PATH, found %q", ErrNotSetUp, path, n, line)
		}
		m[key] = value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("qemutest: read %s: %w", path, err)
	}
	return m, nil
}

// file returns the path of a name in the manifest.
func (m manifest) file(name string) (string, error) {
	path := m[name]
	if path == "" {
		return "", fmt.Errorf("qemutest: %w: %s has no entry %s", ErrNotSetUp, manifestName, name)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("qemutest: %w: %s: %w", ErrNotSetUp, name, err)
	}
	return path, nil
}

// qemu returns the path of the binary of a version.
func (m manifest) qemu(version string) (string, error) {
	key, ok := qemuKeys[version]
	if !ok {
		return "", fmt.Errorf("qemutest: unsupported QEMU version %q (want 11.1, 10.0 or 7.2)", version)
	}
	return m.file(key)
}

// cacheDir returns the folder that scripts/setup fills: $VMFERRY_CACHE, or .cache in the
// repository of the working directory.
func cacheDir() (string, error) {
	if dir := os.Getenv("VMFERRY_CACHE"); dir != "" {
		return dir, nil
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("qemutest: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "scripts", "setup")); err == nil {
			return filepath.Join(dir, ".cache"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("qemutest: %w: %s is not inside the repository; set VMFERRY_CACHE to the folder that was set up", ErrNotSetUp, wd)
		}
	}
}
