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

// ErrNotSetUp is wrapped when something is missing that scripts/setup
// prepares.
var ErrNotSetUp = errors.New("run scripts/setup")

const manifestName = "qemu.env"

// manifest tells where the QEMUs and the guest are: what scripts/setup wrote
// down.
type manifest map[string]string

// qemuKeys are the versions that Config knows and their names in the manifest.
var qemuKeys = map[string]string{
	"11.1": "QEMU_11_1",
	"10.0": "QEMU_10_0",
	"7.2":  "QEMU_7_2",
}

// Versions gives the versions of QEMU that tests run against, the oldest first:
// all that Config knows. Only 11.1 is left out where scripts/setup could not get
// it, which setup says; but not in CI (the variable CI is set), where a machine
// of that version then fails with [ErrNotSetUp].
func Versions() []string {
	versions := []string{"7.2", "10.0"}
	m, err := readManifest()
	if err != nil || m[qemuKeys["11.1"]] != "" || os.Getenv("CI") != "" {
		versions = append(versions, "11.1")
	}
	return versions
}

// Has tells whether all these versions are among Versions.
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

// file gives the path that the manifest has for a name.
func (m manifest) file(name string) (string, error) {
	path := m[name]
	if path == "" {
		return "", fmt.Errorf("qemutest: %w: there is no %s in %s", ErrNotSetUp, name, manifestName)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("qemutest: %w: %s: %w", ErrNotSetUp, name, err)
	}
	return path, nil
}

// qemu gives the binary of a version.
func (m manifest) qemu(version string) (string, error) {
	key, ok := qemuKeys[version]
	if !ok {
		return "", fmt.Errorf("qemutest: there is no QEMU %q to be had, only 11.1, 10.0 and 7.2", version)
	}
	return m.file(key)
}

// cacheDir gives the folder that scripts/setup fills: $VMFERRY_CACHE, or
// .cache in the repository that the working directory is in.
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
