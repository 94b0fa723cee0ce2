package xds

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tombolo-mesh/tombolo/xds/delta"
)

// JSON is a resource for people to read: indented, the same for the same bytes.
func JSON(r *delta.Resource) (string, error) {
	m, err := (&anypb.Any{TypeUrl: r.TypeURL, Value: r.Body}).UnmarshalNew()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", r.TypeURL, r.Name, err)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", r.TypeURL, r.Name, err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil { // protojson varies its spaces on purpose
		return "", fmt.Errorf("%s %s: %w", r.TypeURL, r.Name, err)
	}
	return out.String() + "\n", nil
}
