package strictjson_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/internal/strictjson"
)

type base struct {
	Origin string `json:"origin"`
}

type record struct {
	base
	Name  string            `json:"name"`
	Plain int               // its key is the field's name
	Made  time.Time         `json:"made"`
	Next  *record           `json:"next"`
	List  []record          `json:"list"`
	Map   map[string]record `json:"map"`
	Raw   json.RawMessage   `json:"raw"`
	Left  string            `json:"-"`
}

func TestUnmarshal_AgreesWithEncodingJSON(t *testing.T) {
	const text = ` {"name": "a", "Plain": 3, "made": "2024-01-02T03:04:05Z", "origin": "o", "unknown": {"x": 1, "X": 2}, "left": "kept out",
		"next": {"name": "b"}, "list": [{"name": "c"}, {"Plain": 4}], "map": {"k": {"name": "d"}, "K": {"name": "e"}}, "raw": {"Q": [1, {}], "q": null}} `
	var got, want record
	if err := strictjson.Unmarshal([]byte(text), &got, strictjson.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) || got.List[1].Plain != 4 || got.Origin != "o" {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestUnmarshal_AmbiguousTextIsRefused(t *testing.T) {
	for what, text := range map[string]string{
		"a key twice":                  `{"name": "a", "name": "b"}`,
		"a key twice, by an escape":    `{"name": "a", "n\u0061me": "b"}`,
		"an unknown key twice":         `{"what": 1, "what": 1}`,
		"a key twice inside":           `{"list": [{"name": "a"}, {"name": "a", "name": "b"}]}`,
		"a key twice in raw text":      `{"raw": {"x": {"y": 1, "y": 2}}}`,
		"a key of a map twice":         `{"map": {"k": {}, "k": {}}}`,
		"a key in another case":        `{"Name": "a"}`,
		"a key in another case beside": `{"name": "a", "NAME": "b"}`,
		"a field's name in lower case": `{"plain": 3}`,
		"an embedded one's":            `{"Origin": "a"}`,
		"in a list":                    `{"list": [{"Name": "a"}]}`,
		"in a map":                     `{"map": {"k": {"nAme": "a"}}}`,
		"behind a pointer":             `{"next": {"Name": "a"}}`,
		"a letter that folds to s":     `{"li\u017ft": []}`,
		"a second value":               `{"name": "a"} {}`,
		"data after the value":         `{"name": "a"} x`,
		"text that is not UTF-8":       "{\"name\": \"a\xff\"}",
		"too deep":                     strings.Repeat("[", 65) + strings.Repeat("]", 65),
	} {
		var r any = new(record)
		if text[0] == '[' {
			r = new(any)
		}
		if err := strictjson.Unmarshal([]byte(text), r, strictjson.Options{}); !errors.Is(err, strictjson.ErrAmbiguous) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestUnmarshal_InvalidJSONIsRefused(t *testing.T) {
	for _, text := range []string{"", "{", "[", `{"name"`, `{"name": }`, `{"name": "a"`, `{1: 2}`, `[1,]`, "nul", `{"name": 3}`} {
		if err := strictjson.Unmarshal([]byte(text), new(record), strictjson.Options{}); err == nil {
			t.Errorf("Unmarshal accepted %q", text)
		}
	}
}

func TestUnmarshal_OptionsBoundTheText(t *testing.T) {
	text := []byte(`{"name": "a", "more": [[1]]}`)
	for what, opts := range map[string]strictjson.Options{
		"bytes": {MaxBytes: len(text) - 1}, "depth": {MaxDepth: 2}, "known keys": {KnownKeysOnly: true},
	} {
		if err := strictjson.Unmarshal(text, new(record), opts); !errors.Is(err, strictjson.ErrAmbiguous) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := strictjson.Unmarshal(text, new(record), strictjson.Options{MaxBytes: len(text), MaxDepth: 3}); err != nil {
		t.Error(err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"name": "a", "list": [{"Plain": 1}], "map": {"k": {}}, "raw": [1, "x"]}`))
	f.Add([]byte(`{"name": "a", "NAME": "b"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		// A decoder that matches keys by case must get the same values.
		var keys map[string]json.RawMessage
		var r record
		if strictjson.Unmarshal(text, &r, strictjson.Options{}) != nil || json.Unmarshal(text, &keys) != nil {
			return
		}
		if _, ok := keys["name"]; !ok && r.Name != "" {
			t.Errorf("Name is %q, and the text has no key \"name\"", r.Name)
		}
		if _, ok := keys["Plain"]; !ok && r.Plain != 0 {
			t.Errorf("Plain is %d, and the text has no key \"Plain\"", r.Plain)
		}
	})
}

func TestCheck_ListsAndMapsOfATypeAreBounded(t *testing.T) {
	opts := strictjson.Options{MaxEntries: map[reflect.Type]int{reflect.TypeFor[[]record](): 2, reflect.TypeFor[map[string]record](): 1}}
	for _, text := range []string{
		`{"list": [{}, {}], "map": {"a": {}}}`, `{"next": {"list": [{}, {}]}, "list": [{}, {}]}`,
		`{"raw": [1, 2, 3], "unknown": [1, 2, 3]}`,
	} {
		if err := strictjson.Check([]byte(text), new(record), opts); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{
		`{"list": [{}, {}, {}]}`, `{"map": {"a": {}, "b": {}}}`, `{"next": {"map": {"x": {"list": [{}, null, {}]}}}}`,
	} {
		if err := strictjson.Check([]byte(text), new(record), opts); !errors.Is(err, strictjson.ErrAmbiguous) {
			t.Errorf("%s: %v, want ErrAmbiguous", text, err)
		}
	}
}
