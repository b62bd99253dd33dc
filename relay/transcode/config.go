package transcode

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/pagecodec"
)

// Config configures the transcoding of connections. The zero value decodes and encodes
// uncompressed pages.
type Config struct {
	// In is the multifd-compression of the source, and Out that of the destination; nil
	// is multifd.None.
	In, Out multifd.Method
	// Level is the compression level of Out; 0 is the method's default.
	Level int
	// PageSize is the target page size in bytes that a channel has until a packet shows
	// it; 0 is 4 KiB.
	PageSize int
	// Accelerator deflates and inflates the pages of qpl; nil is software. The caller
	// closes it afterwards.
	Accelerator *pagecodec.Accelerator
	// DialTimeout bounds the wait for a connection to the destination; 0 is 30 s. The
	// source's next connection waits meanwhile.
	DialTimeout time.Duration
	// Logger, if not nil, receives the connections that fail.
	Logger *slog.Logger
}

// withDefaults checks the configuration and fills in the defaults.
func (cfg Config) withDefaults() (Config, error) {
	if cfg.In == nil {
		cfg.In = multifd.None
	}
	if cfg.Out == nil {
		cfg.Out = multifd.None
	}
	cfg.PageSize = cmp.Or(cfg.PageSize, guest.DefaultPageSize)
	if size := cfg.PageSize; size < guest.MinPageSize || size > guest.MaxPageSize || size&(size-1) != 0 {
		return cfg, fmt.Errorf("transcode: page size %d (want a power of two from %d to %d)", size, guest.MinPageSize, guest.MaxPageSize)
	}
	if err := multifd.CheckLevel(cfg.Out, cfg.Level); err != nil {
		return cfg, fmt.Errorf("transcode: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}
