package mesh

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a Go duration in JSON ("1m30s").
type Duration struct{ time.Duration }

// MarshalJSON writes the Go form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads the Go form.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("must be a duration such as \"5s\"")
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("must be a duration such as \"5s\", not %q", s)
	}
	d.Duration = v
	return nil
}

// Decimal is a number that may be written as an integer or a decimal string ("12.5").
type Decimal float64

// UnmarshalJSON reads both forms.
func (d *Decimal) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Errorf("must be an integer or a decimal string, not %s", b)
	}
	*d = Decimal(v)
	return nil
}

// IntOrString is a port by number or by name.
type IntOrString struct {
	// Int is set when Str is empty.
	Int uint32
	// Str is a name.
	Str string
}

// MarshalJSON writes whichever is set.
func (v IntOrString) MarshalJSON() ([]byte, error) {
	if v.Str != "" {
		return json.Marshal(v.Str)
	}
	return json.Marshal(v.Int)
}

// UnmarshalJSON reads a number or a name.
func (v *IntOrString) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &v.Str)
	}
	if err := json.Unmarshal(b, &v.Int); err != nil {
		return fmt.Errorf("must be a port number or the name of a port, not %s", b)
	}
	return nil
}

// AnyValue is a value of any JSON type, kept as it is written.
type AnyValue struct{ JSON json.RawMessage }

// MarshalJSON writes what was read.
func (v AnyValue) MarshalJSON() ([]byte, error) { return v.JSON.MarshalJSON() }

// UnmarshalJSON keeps the bytes.
func (v *AnyValue) UnmarshalJSON(b []byte) error { return v.JSON.UnmarshalJSON(b) }

func lower(k KindName) string { return strings.ToLower(string(k)) }

func find(is func(Kind) bool) (Kind, bool) {
	for _, k := range Kinds() {
		if is(k) {
			return k, true
		}
	}
	return Kind{}, false
}
