package relaymetrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vmferry/vmferry/relay"
)

const (
	requestWithin = 5 * time.Second
	answerWithin  = 30 * time.Second
	idleWithin    = 2 * time.Minute
	// mostRequests bounds the answers that are made at once.
	mostRequests = 4
	mostHeader   = 16 << 10
)

// Serve answers GET /metrics, with the metrics of the relay and of the process, and
// GET /healthz, until ctx ends. It closes ln.
func Serve(ctx context.Context, ln net.Listener, stats func() relay.Stats, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           Handler(stats),
		ReadHeaderTimeout: requestWithin, ReadTimeout: requestWithin, WriteTimeout: answerWithin, IdleTimeout: idleWithin,
		MaxHeaderBytes: mostHeader,
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Handler is what Serve serves.
func Handler(stats func() relay.Stats) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(Collector(stats), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: mostRequests, Timeout: answerWithin}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	return mux
}
