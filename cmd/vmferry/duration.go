package main

import (
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
)

// durationFlags has kong read every flag that is a time.Duration by parseDuration.
func durationFlags() kong.Option {
	return kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
		var text string
		if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
			return err
		}
		d, err := parseDuration(text)
		if err == nil {
			target.SetInt(int64(d))
		}
		return err
	}))
}

// parseDuration reads a duration of 0 or more, such as 300ms or 2m.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d >= 0 {
		return d, nil
	}
	if err == nil {
		return 0, fmt.Errorf("%q is less than nothing: want a duration of 0 or more, such as 300ms", s)
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil && n >= 0 {
		return 0, fmt.Errorf("%q has no unit: want a duration with a unit, such as %sms, %ss or %sm", s, s, s, s)
	}
	return 0, fmt.Errorf("%q is no duration: want a number with a unit, such as 300ms, 10s or 2m", s)
}
