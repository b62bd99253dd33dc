package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
)

// MigrateParameters are the settings of a migration. As an answer, nil means
// that this QEMU does not have the parameter. As a request, nil leaves it as
// it is; new(8) is a short way to write a pointer to a value.
type MigrateParameters struct {
	MultifdChannels    *int    `json:"multifd-channels,omitempty"`
	MultifdCompression *string `json:"multifd-compression,omitempty"` // "none", "zlib", "zstd", "qpl", ...
	MultifdZlibLevel   *int    `json:"multifd-zlib-level,omitempty"`  // 0 to 9
	MultifdZstdLevel   *int    `json:"multifd-zstd-level,omitempty"`  // 0 to 20
	MultifdQatzipLevel *int    `json:"multifd-qatzip-level,omitempty"`

	// ZeroPageDetection is "none", "legacy" or "multifd" (QEMU 9.0 and later).
	ZeroPageDetection *string `json:"zero-page-detection,omitempty"`

	MaxBandwidth  *uint64       `json:"max-bandwidth,omitempty"`  // bytes a second; 0 for no limit
	DowntimeLimit *Milliseconds `json:"downtime-limit,omitempty"` // at most 2000 seconds

	// TLSCreds and TLSAuthz name objects of QEMU; "" is none.
	TLSCreds    *string `json:"tls-creds,omitempty"`
	TLSHostname *string `json:"tls-hostname,omitempty"`
	TLSAuthz    *string `json:"tls-authz,omitempty"`

	// Other holds every parameter without a field above, by its QMP name.
	Other map[string]json.RawMessage `json:"-"`
}

// fieldsOnly has the fields of MigrateParameters but not its methods, so that
// encoding it does not call them again.
type fieldsOnly MigrateParameters

// parameterFields holds the QMP names that MigrateParameters has fields for.
var parameterFields = func() map[string]bool {
	names := make(map[string]bool)
	for f := range reflect.TypeFor[fieldsOnly]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "-" {
			names[name] = true
		}
	}
	return names
}()

// MarshalJSON encodes what is not nil, and Other. It is an error if Other
// holds a name that has a field.
func (p MigrateParameters) MarshalJSON() ([]byte, error) {
	b, err := json.Marshal(fieldsOnly(p))
	if err != nil || len(p.Other) == 0 {
		return b, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	for name := range p.Other {
		if parameterFields[name] {
			return nil, fmt.Errorf("qmp: parameter %q belongs in its field of MigrateParameters, not in Other", name)
		}
	}
	maps.Copy(all, p.Other)
	return json.Marshal(all)
}

// UnmarshalJSON decodes an answer and keeps unknown parameters in Other.
func (p *MigrateParameters) UnmarshalJSON(b []byte) error {
	var fields fieldsOnly
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	var other map[string]json.RawMessage
	if err := json.Unmarshal(b, &other); err != nil {
		return err
	}
	maps.DeleteFunc(other, func(name string, _ json.RawMessage) bool { return parameterFields[name] })
	*p = MigrateParameters(fields)
	if len(other) > 0 {
		p.Other = other
	}
	return nil
}

// QueryMigrateParameters reads the settings.
func (vm *Machine) QueryMigrateParameters(ctx context.Context) (MigrateParameters, error) {
	var p MigrateParameters
	err := vm.Execute(ctx, "query-migrate-parameters", nil, &p)
	return p, err
}

// SetMigrateParameters changes the settings that are not nil. QEMU changes
// all of them or, with an error, none.
func (vm *Machine) SetMigrateParameters(ctx context.Context, p MigrateParameters) error {
	return vm.Execute(ctx, "migrate-set-parameters", p, nil)
}
