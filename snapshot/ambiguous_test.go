package snapshot_test

import (
	"strings"
	"testing"

	"github.com/vmferry/vmferry/snapshot"
)

func TestOpen_AmbiguousManifestIsRefused(t *testing.T) {
	for name, change := range map[string][2]string{
		"a key twice":                    {`"store": `, `"store": "raw", "store": `},
		"a key in another case":          {`"store": `, `"Store": `},
		"a key in another case beside":   {`"store": `, `"STORE": "raw", "store": `},
		"a key twice in a block":         {`"pages": `, `"pages": 0, "pages": `},
		"a key in another case inside":   {`"page_size": `, `"Page_Size": `},
		"an unknown key twice":           {`"store": `, `"later": 1, "later": 2, "store": `},
		"bytes that are not UTF-8":       {`"store": `, "\"note\": \"\xff\", \"store\": "},
		"an unknown key nested too deep": {`"store": `, `"later": ` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `, "store": `},
	} {
		b, _ := small(t, snapshot.StoreFast, 1024)
		body := bodyOf(b)
		changed := strings.Replace(body, change[0], change[1], 1)
		if changed == body {
			t.Fatalf("%s: the manifest does not have %s", name, change[0])
		}
		newForger(t, b).signText(changed)
		wantCorrupt(t, b, name)
	}
}

func TestOpen_ManifestWithUnknownKeysIsAccepted(t *testing.T) {
	b, _ := small(t, snapshot.StoreFast, 1024)
	body := strings.Replace(bodyOf(b), `"store": `, `"later": {"a": [1, {"b": null}]}, "Later": 2, "store": `, 1)
	newForger(t, b).signText(body)
	r, err := snapshot.Open(t.Context(), b, snapshot.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}
