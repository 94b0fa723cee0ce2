package api

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/tombolo-mesh/tombolo/global/api/access"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// maxGroups of a user.
const maxGroups = 32

// TokenRequest asks for a token.
type TokenRequest struct {
	// Name of the user (required), or of the only Dataplane that may use it.
	Name string `json:"name,omitempty"`
	// Groups of the user: admin, author, reader.
	Groups []string `json:"groups,omitempty"`
	// Zone that the token is bound to; required for zones.
	Zone string `json:"zone,omitempty"`
	// Mesh that the token is bound to; required for dataplanes.
	Mesh string `json:"mesh,omitempty"`
	// Workload that the token is bound to; this or name is required for dataplanes.
	Workload string `json:"workload,omitempty"`
	// ValidFor is how long, as "720h"; default 24h for users, 1 year for zones, 30 days for dataplanes.
	ValidFor mesh.Duration `json:"validFor,omitzero"`
}

// TokenResponse is a signed token.
type TokenResponse struct {
	// Token to present.
	Token string `json:"token"`
	// ID by which it can be revoked.
	ID string `json:"id"`
	// Expires is when it does.
	Expires time.Time `json:"expires"`
}

// RevocationRequest names a token to refuse from now on: itself, or its id.
type RevocationRequest struct {
	// Token itself; use, mesh and expiry are read from it.
	Token string `json:"token,omitempty"`
	// ID of the token, with its use, and its mesh for a dataplane's.
	ID   string    `json:"id,omitempty"`
	Use  token.Use `json:"use,omitempty"`
	Mesh string    `json:"mesh,omitempty"`
}

// RevocationList is what was revoked.
type RevocationList struct {
	// Items sorted by use, mesh and id.
	Items []RevocationEntry `json:"items"`
}

// RevocationEntry is one revoked token.
type RevocationEntry struct {
	// ID of the token.
	ID string `json:"id"`
	// Use and Mesh of it.
	Use  token.Use `json:"use"`
	Mesh string    `json:"mesh,omitempty"`
	// Expires is when the token would have, and the entry is forgotten.
	Expires time.Time `json:"expires,omitzero"`
}

func (s *Server) tokenRoutes() []route {
	var routes []route
	for _, use := range uses() {
		routes = append(routes, route{method: http.MethodPost, path: "/tokens/" + string(use), need: adminish, handle: s.issue(use),
			op: operation{summary: "Issue a " + string(use) + " token", body: "TokenRequest", answer: "TokenResponse", created: true,
				codes: []int{400, 401, 403, 404, 413, 415, 422}}})
	}
	return append(routes,
		route{method: http.MethodPost, path: "/tokens/revocations", need: adminish, handle: s.revoke, op: operation{
			summary: "Refuse a token from now on", body: "RevocationRequest", answer: "Written", codes: []int{400, 401, 403, 404, 409, 413, 415, 422}}},
		route{method: http.MethodGet, path: "/tokens/revocations", need: adminish, handle: s.revocations, op: operation{
			summary: "List revoked tokens", answer: "RevocationList", codes: []int{401, 403}}})
}

func uses() []token.Use { return []token.Use{token.User, token.Zone, token.Dataplane} }

// check says what a use needs and what it does not know.
func (t *TokenRequest) check(use token.Use) mesh.Problems {
	var out mesh.Problems
	text := func(field, value string, wanted bool, required bool) {
		switch {
		case value == "" && required:
			out.Addf(field, "is required for a %s token", use)
		case value != "" && !wanted:
			out.Addf(field, "must be absent: a %s token has none", use)
		}
	}
	user, zone, dataplane := use == token.User, use == token.Zone, use == token.Dataplane
	text("name", t.Name, user || dataplane, user)
	text("zone", t.Zone, zone || dataplane, zone)
	text("mesh", t.Mesh, dataplane, dataplane)
	text("workload", t.Workload, dataplane, false)
	if dataplane && t.Name == "" && t.Workload == "" {
		out.Addf("workload", "is required for a dataplane token, or name")
	}
	for _, f := range []struct{ field, value string }{{"zone", t.Zone}, {"mesh", t.Mesh}, {"workload", t.Workload}} {
		if f.value != "" {
			if reason := mesh.CheckDNSLabel(f.value); reason != "" {
				out.Addf(f.field, "%s", reason)
			}
		}
	}
	if dataplane && t.Name != "" {
		if reason := mesh.CheckName(t.Name); reason != "" {
			out.Addf("name", "%s", reason)
		}
	}
	if len(t.Name) > 253 {
		out.Addf("name", "must have at most 253 characters")
	}
	for _, c := range t.Name {
		if c < ' ' || c == 0x7f {
			out.Addf("name", "must not have control characters")
			break
		}
	}
	if len(t.Groups) > 0 && !user {
		out.Addf("groups", "must be absent: a %s token has none", use)
	}
	if len(t.Groups) > maxGroups {
		out.Addf("groups", "must have at most %d", maxGroups)
	}
	for i, g := range t.Groups {
		if !slices.Contains([]string{GroupAdmin, GroupAuthor, GroupReader}, g) {
			out.Addf("groups["+itoa(i)+"]", "must be one of admin, author, reader, not %q", clip(g))
		}
	}
	if _, err := access.Life(use, t.ValidFor.Duration); err != nil {
		out.Addf("validFor", "%s", err)
	}
	return out
}

func (s *Server) issue(use token.Use) func(http.ResponseWriter, *request) error {
	return func(w http.ResponseWriter, r *request) error {
		var in TokenRequest
		if err := r.jsonBody(&in); err != nil {
			return err
		}
		if problems := in.check(use); len(problems) > 0 {
			return invalid(problems)
		}
		life, err := access.Life(use, in.ValidFor.Duration)
		if err != nil {
			return err
		}
		if in.Mesh != "" {
			if _, err := s.meshExists(r.Context(), in.Mesh); err != nil {
				return err
			}
		}
		raw, c, err := s.cfg.Tokens.Issue(r.Context(), token.Claims{Use: use, Name: in.Name, Groups: in.Groups, Zone: in.Zone,
			Mesh: in.Mesh, Workload: in.Workload, Expires: s.cfg.Now().UTC().Truncate(time.Second).Add(life)})
		if errors.Is(err, access.ErrNoKey) {
			return problem(http.StatusConflict, "mesh %q has no signing key; it was created without one", in.Mesh)
		}
		if err != nil {
			return err
		}
		r.log.Info("token issued", "use", string(use), "id", c.ID, "name", c.Name, "zone", c.Zone, "mesh", c.Mesh,
			"workload", c.Workload, "expires", c.Expires, "author", r.author())
		return answer(w, http.StatusCreated, TokenResponse{Token: raw, ID: c.ID, Expires: c.Expires})
	}
}

func (s *Server) revoke(w http.ResponseWriter, r *request) error {
	var in RevocationRequest
	if err := r.jsonBody(&in); err != nil {
		return err
	}
	use, meshName, rev, err := s.revocation(r, in)
	if err != nil {
		return err
	}
	if use == token.Dataplane {
		if _, err := s.meshExists(r.Context(), meshName); err != nil {
			return err
		}
	}
	at, err := s.cfg.Tokens.Revoke(r.Context(), r.author(), use, meshName, rev)
	if errors.Is(err, access.ErrFull) {
		return problem(http.StatusConflict, "%s", err)
	}
	if err != nil {
		return err
	}
	if s.cfg.Revoked != nil {
		s.cfg.Revoked()
	}
	r.log.Info("token revoked", "use", string(use), "id", rev.ID, "mesh", meshName, "author", r.author(), "rev", int64(at.Revision))
	setRevision(w, at.Revision)
	return answer(w, http.StatusOK, Written{Revision: at.Revision, First: at.Revision, Warnings: []string{}})
}

// revocation reads what to revoke.
func (s *Server) revocation(r *request, in RevocationRequest) (token.Use, string, token.Revocation, error) {
	fail := func(field, format string, args ...any) (token.Use, string, token.Revocation, error) {
		return "", "", token.Revocation{}, invalidField(http.StatusUnprocessableEntity, field, format, args...)
	}
	if in.Token != "" {
		if in.ID != "" || in.Use != "" || in.Mesh != "" {
			return fail("token", "must be given alone, or id, use and mesh")
		}
		claimed := access.Peek(in.Token)
		if !slices.Contains(uses(), claimed.Use) {
			return fail("token", "is no token of Tombolo")
		}
		c, err := s.cfg.Tokens.Verify(r.Context(), claimed.Use, in.Token)
		if err != nil && !isTokenError(err) {
			return "", "", token.Revocation{}, err
		}
		if err != nil {
			return fail("token", "cannot be revoked: %s", err)
		}
		return c.Use, c.Mesh, token.Revocation{ID: c.ID, Expires: c.Expires}, nil
	}
	switch {
	case in.ID == "" || len(in.ID) > 128:
		return fail("id", "must have 1 to 128 characters, or give the token")
	case !slices.Contains(uses(), in.Use):
		return fail("use", "must be one of user, zone, dataplane, not %q", clip(string(in.Use)))
	case in.Use == token.Dataplane && in.Mesh == "":
		return fail("mesh", "is required for the id of a dataplane token")
	case in.Use != token.Dataplane && in.Mesh != "":
		return fail("mesh", "must be absent: a %s token has none", in.Use)
	}
	// No token lives longer, so the entry can be forgotten then.
	return in.Use, in.Mesh, token.Revocation{ID: in.ID, Expires: s.cfg.Now().UTC().Add(access.MaxLife)}, nil
}

func (s *Server) revocations(w http.ResponseWriter, r *request) error {
	list, err := s.cfg.Tokens.AllRevoked(r.Context())
	if err != nil {
		return err
	}
	out := RevocationList{Items: []RevocationEntry{}}
	for _, x := range list {
		out.Items = append(out.Items, RevocationEntry{ID: x.ID, Use: x.Use, Mesh: x.Mesh, Expires: x.Expires})
	}
	return answer(w, http.StatusOK, out)
}
