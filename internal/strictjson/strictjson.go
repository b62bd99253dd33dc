// Package strictjson decodes JSON from a peer or a file. It refuses text that two decoders
// can decode to different values, such as an object with a duplicate key, which
// encoding/json accepts.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// ErrAmbiguous is wrapped by every error about JSON that encoding/json accepts and this
// package refuses.
var ErrAmbiguous = errors.New("ambiguous JSON")

// Options bound the text that is decoded. A zero value means the default.
type Options struct {
	// MaxBytes bounds the length of the text; the default is 16 MiB.
	MaxBytes int
	// MaxDepth bounds the nesting of arrays and objects; the default is 64.
	MaxDepth int
	// KnownKeysOnly refuses keys without a field, as
	// json.Decoder.DisallowUnknownFields does.
	KnownKeysOnly bool
	// MaxEntries bounds the number of entries of lists and maps by their type. An
	// entry can take much more memory than its text.
	MaxEntries map[reflect.Type]int
}

const (
	defaultMaxBytes = 16 << 20
	defaultMaxDepth = 64
)

// Unmarshal decodes one JSON value into the value that v points to, as json.Unmarshal does,
// if Check returns no error.
func Unmarshal(text []byte, v any, opts Options) error {
	if err := Check(text, v, opts); err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

// Check checks a text against the value that v points to, and does not decode it. Check
// refuses a duplicate key, a key that differs from the key of a field only in case, text
// that is not UTF-8, and data after the value. It does not check the keys of a type that
// implements json.Unmarshaler.
func Check(text []byte, v any, opts Options) error {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = defaultMaxBytes
	}
	if opts.MaxDepth == 0 {
		opts.MaxDepth = defaultMaxDepth
	}
	if len(text) > opts.MaxBytes {
		return fmt.Errorf("%w: %d bytes (want at most %d)", ErrAmbiguous, len(text), opts.MaxBytes)
	}
	if !utf8.Valid(text) {
		return fmt.Errorf("%w: the text is not UTF-8", ErrAmbiguous)
	}
	c := checker{in: json.NewDecoder(bytes.NewReader(text)), opts: opts, known: make(map[reflect.Type]map[string]reflect.Type)}
	c.in.UseNumber()
	if err := c.value(reflect.TypeOf(v), 0); err != nil {
		return err
	}
	if _, err := c.in.Token(); err != io.EOF {
		return fmt.Errorf("%w: data after the value that ends at byte %d", ErrAmbiguous, c.in.InputOffset())
	}
	return nil
}

// checker reads the tokens of a text and follows the type that they decode into.
type checker struct {
	in   *json.Decoder
	opts Options
	// known caches the keys of structs: a text can have a struct in every 3 bytes.
	known map[reflect.Type]map[string]reflect.Type
}

// value checks the next value. t is nil if its type is not known.
func (c *checker) value(t reflect.Type, depth int) error {
	token, err := c.in.Token()
	if err != nil {
		return noEOF(err)
	}
	start, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	if depth++; depth > c.opts.MaxDepth {
		return fmt.Errorf("%w: nested deeper than %d at byte %d", ErrAmbiguous, c.opts.MaxDepth, c.in.InputOffset())
	}
	t = decoded(t)
	if start == '{' {
		err = c.object(t, depth)
	} else {
		err = c.array(t, depth)
	}
	if err != nil {
		return err
	}
	_, err = c.in.Token() // the closing bracket
	return noEOF(err)
}

func (c *checker) array(t reflect.Type, depth int) error {
	for n := 1; c.in.More(); n++ {
		if err := c.entries(t, n); err != nil {
			return err
		}
		if err := c.value(elementOf(t), depth); err != nil {
			return err
		}
	}
	return nil
}

// entries refuses a list or map of n entries if MaxEntries of its type is less.
func (c *checker) entries(t reflect.Type, n int) error {
	if most, ok := c.opts.MaxEntries[t]; ok && n > most {
		return fmt.Errorf("%w: a list of more than %d entries at byte %d", ErrAmbiguous, most, c.in.InputOffset())
	}
	return nil
}

func (c *checker) object(t reflect.Type, depth int) error {
	var seen map[string]bool // nil while the object has no key
	fields := c.fieldsOf(t)
	for c.in.More() {
		token, err := c.in.Token()
		if err != nil {
			return noEOF(err)
		}
		key, ok := token.(string)
		if !ok {
			return fmt.Errorf("%w: key at byte %d is not a string", ErrAmbiguous, c.in.InputOffset())
		}
		if seen[key] {
			return fmt.Errorf("%w: the key %q is there twice, again at byte %d", ErrAmbiguous, key, c.in.InputOffset())
		}
		if seen == nil {
			seen = make(map[string]bool)
		}
		seen[key] = true
		if err := c.entries(t, len(seen)); err != nil {
			return err
		}
		field, err := c.field(t, fields, key)
		if err != nil {
			return err
		}
		if err := c.value(field, depth); err != nil {
			return err
		}
	}
	return nil
}

// field returns the type of the value that belongs to a key.
func (c *checker) field(t reflect.Type, fields map[string]reflect.Type, key string) (reflect.Type, error) {
	if fields == nil {
		return elementOf(t), nil
	}
	if field, ok := fields[key]; ok {
		return field, nil
	}
	for name := range fields {
		if strings.EqualFold(name, key) {
			return nil, fmt.Errorf("%w: the key %q stands for %q (byte %d)", ErrAmbiguous, key, name, c.in.InputOffset())
		}
	}
	if c.opts.KnownKeysOnly {
		return nil, fmt.Errorf("%w: unknown key %q (byte %d)", ErrAmbiguous, key, c.in.InputOffset())
	}
	return nil, nil
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// decoded follows pointers. It returns nil for a type that decodes itself.
func decoded(t reflect.Type) reflect.Type {
	for t != nil {
		if t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler) {
			return nil
		}
		if t.Kind() != reflect.Pointer {
			return t
		}
		t = t.Elem()
	}
	return nil
}

func elementOf(t reflect.Type) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		return t.Elem()
	}
	return nil
}

// fieldsOf returns the cached result of fieldsOf.
func (c *checker) fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields, ok := c.known[t]
	if !ok {
		fields = fieldsOf(t)
		c.known[t] = fields
	}
	return fields
}

// fieldsOf returns the keys of a struct by the rules of encoding/json, or nil if t is not a
// struct.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	fields := make(map[string]reflect.Type)
	for f := range t.Fields() {
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		switch {
		case tag == "-":
		case f.Anonymous && name == "":
			embedded := f.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			for name, inner := range fieldsOf(embedded) {
				if _, ok := fields[name]; !ok {
					fields[name] = inner
				}
			}
		case !f.IsExported():
		case name == "":
			fields[f.Name] = f.Type
		default:
			fields[name] = f.Type
		}
	}
	return fields
}

// noEOF returns io.ErrUnexpectedEOF for io.EOF, at places where a value must continue.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
