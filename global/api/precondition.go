package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// precondition is what If-Match and If-None-Match ask for (RFC 9110, 13.1).
type precondition struct {
	// any: If-Match: *, the resource must exist.
	any bool
	// none: If-None-Match: *, it must not exist.
	none bool
	// one of these revisions, when not empty.
	revisions []mesh.Revision
	// not these revisions (If-None-Match with tags), for GET.
	not []mesh.Revision
}

func (p precondition) set() bool { return p.any || p.none || len(p.revisions) > 0 }

// check is a 412 when the precondition does not hold.
func (p precondition) check(rev mesh.Revision, exists bool) error {
	fail := func(format string, args ...any) error {
		e := problem(http.StatusPreconditionFailed, format, args...)
		if exists {
			e = e.with("Tombolo-Current", strconv.FormatInt(int64(rev), 10))
		}
		return e
	}
	switch {
	case p.none && exists:
		return fail("it exists already, at revision %d", rev)
	case p.any && !exists:
		return fail("it does not exist")
	case len(p.revisions) == 0:
		return nil
	case !exists:
		return fail("it does not exist any more")
	}
	for _, r := range p.revisions {
		if r == rev {
			return nil
		}
	}
	return fail("it is at revision %d now: read it again and repeat the change", rev)
}

// preconditionOf reads the headers of a request.
func preconditionOf(h http.Header) (p precondition, err error) {
	if m := strings.Join(h.Values("If-Match"), ","); strings.TrimSpace(m) == "*" {
		p.any = true
	} else if p.revisions, err = tags("If-Match", m, false); err != nil {
		return p, err
	}
	if m := strings.Join(h.Values("If-None-Match"), ","); strings.TrimSpace(m) == "*" {
		p.none = true
	} else if p.not, err = tags("If-None-Match", m, true); err != nil {
		return p, err
	}
	return p, nil
}

// tags parses a list of entity tags; ours are quoted revisions.
func tags(header, text string, weak bool) ([]mesh.Revision, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var out []mesh.Revision
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if weak {
			part = strings.TrimPrefix(part, "W/")
		}
		inner, err := strconv.Unquote(part)
		if err != nil || part[0] != '"' {
			return nil, invalidField(http.StatusBadRequest, header, "must be * or entity tags such as \"42\", not %q", clip(part))
		}
		n, err := strconv.ParseInt(inner, 10, 64)
		if err != nil || n < 1 {
			n = -1 // a tag that was never given matches nothing
		}
		out = append(out, mesh.Revision(n))
	}
	return out, nil
}
