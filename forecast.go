package vmferry

import (
	"context"

	"github.com/vmferry/vmferry/qemu"
)

// Forecast measures a QEMU machine that runs, and says whether and how long a migration
// would take. The machine runs on and none of its settings changes.
func Forecast(ctx context.Context, opts qemu.ForecastOptions) (*qemu.ForecastResult, error) {
	return qemu.Forecast(ctx, opts)
}
