package probe

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Processor describes this machine's processor, with the instructions that compression uses,
// for reports. Hypervisors often hide the processor's name, but not its family and model.
func Processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	return describeProcessor(string(text))
}

func describeProcessor(cpuinfo string) string {
	first := make(map[string]string)
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); first[name] == "" {
			first[name] = strings.TrimSpace(value)
		}
	}
	if first["model name"] == "" {
		return "unknown processor" // that of another architecture than amd64
	}
	flags := slices.DeleteFunc(strings.Fields(first["flags"]), func(flag string) bool {
		return !strings.HasPrefix(flag, "avx512") && !slices.Contains([]string{"avx2", "gfni", "vaes", "sha_ni"}, flag)
	})
	return fmt.Sprintf("%s, family %s, model %s; %s", first["model name"], first["cpu family"], first["model"], strings.Join(flags, " "))
}

// Kernel names the kernel of this machine, for reports.
func Kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(text))
}
