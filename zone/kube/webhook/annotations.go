package webhook

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tombolo-mesh/tombolo/agent/redirect"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Labels and annotations that the webhook reads or writes, in canonical form.
const (
	LabelInjection     = "tombolo.io/sidecar-injection" // enabled or disabled, on namespaces and pods
	AnnotationInjected = "tombolo.io/sidecar-injected"  // "true" on pods that have a sidecar
	AnnotationRedirect = "traffic.tombolo.io/redirect"  // JSON of redirect.Config, for the CNI plugin
	annotationPatches  = "tombolo.io/container-patches"
	annotationFirst    = "tombolo.io/init-first"
)

// values reads annotations (or labels) in either form and collects what is wrong
// with them, each by the key that the user wrote.
type values struct {
	kind string // "annotation" or "label", for messages
	of   map[string]string
	keys map[string]string // canonical to written
	errs []error
}

func newValues(kind string, given map[string]string) *values {
	v := &values{kind: kind, of: mesh.CanonicalLabels(given), keys: map[string]string{}}
	for key := range given {
		canonical := mesh.CanonicalLabel(key)
		if _, both := v.keys[canonical]; key == canonical || !both {
			v.keys[canonical] = key
		}
	}
	return v
}

// written is a key as the user wrote it.
func (v *values) written(key string) string { return cmp.Or(v.keys[key], key) }

func (v *values) bad(key, format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf("%s %s: %s", v.kind, v.written(key), fmt.Sprintf(format, args...)))
}

func (v *values) err() error { return errors.Join(v.errs...) }

func (v *values) text(key string) (string, bool) {
	s, ok := v.of[key]
	return strings.TrimSpace(s), ok
}

// onOff reads enabled, disabled, true, false, yes or no.
func (v *values) onOff(key string, def bool) bool {
	s, ok := v.text(key)
	switch {
	case !ok:
		return def
	case s == "enabled" || s == "true" || s == "yes":
		return true
	case s == "disabled" || s == "false" || s == "no":
		return false
	}
	v.bad(key, "must be enabled or disabled, not %q", s)
	return def
}

func (v *values) number(key string, low, high int) (int, bool) {
	s, ok := v.text(key)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		v.bad(key, "must be a number of %d to %d, not %q", low, high, s)
		return 0, false
	}
	return n, true
}

func (v *values) duration(key string, low, high time.Duration) (time.Duration, bool) {
	s, ok := v.text(key)
	if !ok {
		return 0, false
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < low || d > high {
		v.bad(key, "must be a duration of %s to %s, as 30s, not %q", low, high, s)
		return 0, false
	}
	return d, true
}

func (v *values) quantity(key string) (resource.Quantity, bool) {
	s, ok := v.text(key)
	if !ok {
		return resource.Quantity{}, false
	}
	q, err := resource.ParseQuantity(s)
	if err != nil || q.Sign() < 0 {
		v.bad(key, "must be a quantity, as 100m or 64Mi, not %q", s)
		return resource.Quantity{}, false
	}
	return q, true
}

func (v *values) oneOf(key string, allowed ...string) (string, bool) {
	s, ok := v.text(key)
	if !ok {
		return "", false
	}
	for _, a := range allowed {
		if s == a {
			return s, true
		}
	}
	v.bad(key, "must be one of %s, not %q", strings.Join(allowed, ", "), s)
	return "", false
}

// list splits at commas; empty parts are left out.
func (v *values) list(key, separator string) []string {
	s, _ := v.text(key)
	var out []string
	for part := range strings.SplitSeq(s, separator) {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func (v *values) ports(key string) (out []redirect.Ports) {
	for _, s := range v.list(key, ",") {
		p, err := redirect.ParsePorts(s)
		if err != nil {
			v.bad(key, "%v", err)
			continue
		}
		out = append(out, p)
	}
	return out
}

func (v *values) prefixes(key string) (out []netip.Prefix) {
	for _, s := range v.list(key, ",") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil || a.Zone() != "" {
				v.bad(key, "%q must be an address or a network, as 10.0.0.1 or 10.0.0.0/8", s)
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out
}
