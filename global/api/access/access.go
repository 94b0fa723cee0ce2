package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/identity/token"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// Lives of tokens.
const (
	// MaxLife of any token.
	MaxLife = 10 * 365 * 24 * time.Hour
	// MinLife of any token.
	MinLife = time.Second
	// UserLife, ZoneLife and DataplaneLife are the defaults.
	UserLife      = 24 * time.Hour
	ZoneLife      = 365 * 24 * time.Hour
	DataplaneLife = 30 * 24 * time.Hour
)

// ErrNoKey: there is no signing key for the use and mesh; the mesh does not exist.
var ErrNoKey = errors.New("no signing key")

// ErrFull: the list of revocations takes no more.
var ErrFull = errors.New("the list of revocations is full")

// attempts of a write that others disturb.
const attempts = 8

// Config of Tokens.
type Config struct {
	// Store of keys and revocations. Required.
	Store store.Store
	// Now, default time.Now.
	Now func() time.Time
}

// Tokens issues and checks tokens. Safe for concurrent use. It reads the
// store's head at every check, so that a revocation by any instance of global
// holds for the next request.
type Tokens struct {
	cfg Config

	mu    gosync.Mutex
	cache map[place]cached
}

// place of keys: users and zones have no mesh.
type place struct {
	use  token.Use
	mesh string
}

type cached struct {
	at       store.Position
	verifier *token.Verifier
}

// maxCached bounds the verifiers that are kept.
const maxCached = 64

// New makes Tokens; no I/O.
func New(cfg Config) *Tokens {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Tokens{cfg: cfg, cache: map[place]cached{}}
}

// AdminLife is the life of the first administrator's token.
const AdminLife = 365 * 24 * time.Hour

// Prepare makes the signing keys of users and zones when the store has none,
// together with the writes of with, in one batch. Before that, issued receives
// the first administrator's token: once the keys are durable, so is whatever it
// did with the token. Several instances may start at once; for those that lose,
// issued may have been called in vain and created is false.
func (t *Tokens) Prepare(ctx context.Context, with []store.Op, issued func(adminToken string) error) (created bool, err error) {
	keys, err := t.keys(ctx, place{use: token.User})
	if err != nil || len(keys) > 0 {
		return false, err
	}
	var ops []store.Op
	for _, use := range []token.Use{token.User, token.Zone} {
		k, err := token.GenerateKey(token.KeyID(use, 1))
		if err != nil {
			return false, err
		}
		private, _, err := keyOps(k, use, "")
		if err != nil {
			return false, err
		}
		ops = append(ops, private)
		if use != token.User {
			continue
		}
		raw, err := k.Sign(t.admin())
		if err != nil {
			return false, fmt.Errorf("issue administrator's token: %w", err)
		}
		if err := issued(raw); err != nil {
			return false, err
		}
	}
	_, err = t.cfg.Store.Write(ctx, "system", append(ops, with...))
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create token keys: %w", err)
	}
	return true, nil
}

// Admin issues another administrator's token, for who lost the first.
func (t *Tokens) Admin(ctx context.Context) (string, error) {
	raw, _, err := t.Issue(ctx, t.admin())
	return raw, err
}

func (t *Tokens) admin() token.Claims {
	now := t.cfg.Now().UTC().Truncate(time.Second)
	return token.Claims{Use: token.User, Name: "admin", Groups: []string{"admin"}, Issued: now, Expires: now.Add(AdminLife)}
}

// MeshOps are the writes that give a new mesh its keys: the private one, which
// stays at global, the public one and the empty list of revocations.
func MeshOps(meshName string) ([]store.Op, error) {
	private, public, err := newKey(token.Dataplane, meshName)
	if err != nil {
		return nil, err
	}
	revoked, err := secret(mesh.Key{Kind: mesh.KindSecret, Mesh: meshName, Name: token.RevocationsName(token.Dataplane)}, []byte("[]"), false)
	if err != nil {
		return nil, err
	}
	return []store.Op{private, public, revoked}, nil
}

// Reserved says whether a Secret of this name holds keys or revocations, which
// are managed through the tokens' own interface only.
func Reserved(name string) bool {
	if _, _, ok := token.ParseSigningKeyName(name); ok {
		return true
	}
	if _, _, ok := token.ParsePublicKeyName(name); ok {
		return true
	}
	for _, use := range []token.Use{token.User, token.Zone, token.Dataplane} {
		if name == token.RevocationsName(use) {
			return true
		}
	}
	return false
}

func newKey(use token.Use, meshName string) (private, public store.Op, err error) {
	k, err := token.GenerateKey(token.KeyID(use, 1))
	if err != nil {
		return private, public, err
	}
	return keyOps(k, use, meshName)
}

func keyOps(k token.Key, use token.Use, meshName string) (private, public store.Op, err error) {
	text, err := k.MarshalPEM()
	if err != nil {
		return private, public, err
	}
	open, err := k.Public().MarshalPEM()
	if err != nil {
		return private, public, err
	}
	private, err = secret(mesh.Key{Kind: mesh.KindSecret, Mesh: meshName, Name: token.SigningKeyName(use, 1)}, text, true)
	if err != nil {
		return private, public, err
	}
	public, err = secret(mesh.Key{Kind: mesh.KindSecret, Mesh: meshName, Name: token.PublicKeyName(use, 1)}, open, false)
	return private, public, err
}

// secret is a write that creates a Secret.
func secret(key mesh.Key, data []byte, local bool) (store.Op, error) {
	spec := mesh.Secret{Data: data}
	raw, err := json.Marshal(spec)
	if err != nil {
		return store.Op{}, fmt.Errorf("encode %s: %w", key, err)
	}
	r := mesh.Resource{Key: key, Spec: raw}
	if local {
		r.Labels = map[string]string{mesh.LabelSync: mesh.SyncDisabled}
	}
	labels, problems := mesh.ComputeLabels(r, &spec, mesh.EnvUniversal)
	if err := problems.Err(); err != nil {
		return store.Op{}, fmt.Errorf("labels of %s: %w", key, err)
	}
	r.Labels = labels
	return store.Op{Resource: r, IfRevision: new(mesh.Revision)}, nil
}

// keys reads the signing keys of a place, in order of their numbers.
func (t *Tokens) keys(ctx context.Context, p place) ([]token.Key, error) {
	page, err := t.cfg.Store.List(ctx, store.Query{Kind: mesh.KindSecret, Mesh: p.mesh, NameContains: string(p.use) + "-token-signing-key-"})
	if err != nil {
		return nil, fmt.Errorf("read %s token keys: %w", p.use, err)
	}
	byNumber := map[int]token.Key{}
	for _, r := range page.Items {
		use, n, ok := token.ParseSigningKeyName(r.Name)
		if !ok || use != p.use || r.Mesh != p.mesh || r.Zone != "" {
			continue
		}
		data, err := secretData(r)
		if err != nil {
			return nil, err
		}
		k, err := token.ParseKey(token.KeyID(use, n), data)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", r.Key, err)
		}
		byNumber[n] = k
	}
	keys := make([]token.Key, 0, len(byNumber))
	for _, n := range slices.Sorted(maps.Keys(byNumber)) {
		keys = append(keys, byNumber[n])
	}
	return keys, nil
}

func secretData(r mesh.Resource) ([]byte, error) {
	var s mesh.Secret
	if err := json.Unmarshal(r.Spec, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w", r.Key, err)
	}
	return s.Data, nil
}

// Life is how long a token lives: the default of the use when want is 0, or an
// error outside of the bounds.
func Life(use token.Use, want time.Duration) (time.Duration, error) {
	if want == 0 {
		switch use {
		case token.Zone:
			return ZoneLife, nil
		case token.Dataplane:
			return DataplaneLife, nil
		}
		return UserLife, nil
	}
	if want < MinLife || want > MaxLife {
		return 0, fmt.Errorf("must be between %s and %s", MinLife, MaxLife)
	}
	return want, nil
}

// Issue signs a token with the newest key of its use. ID and Issued are filled
// in; Expires must be set.
func (t *Tokens) Issue(ctx context.Context, c token.Claims) (string, token.Claims, error) {
	keys, err := t.keys(ctx, placeOf(c))
	if err != nil {
		return "", c, err
	}
	if len(keys) == 0 {
		return "", c, fmt.Errorf("issue %s token: %w", c.Use, ErrNoKey)
	}
	c.ID, c.Issued = token.NewID(), t.cfg.Now().UTC().Truncate(time.Second)
	raw, err := keys[len(keys)-1].Sign(c)
	if err != nil {
		return "", c, fmt.Errorf("issue %s token: %w", c.Use, err)
	}
	return raw, c, nil
}

func placeOf(c token.Claims) place {
	if c.Use == token.Dataplane {
		return place{c.Use, c.Mesh}
	}
	return place{use: c.Use}
}

// Verify checks a token of a use. Dataplane tokens are checked against the mesh
// that they name. Errors are those of package token, or the store's.
func (t *Tokens) Verify(ctx context.Context, use token.Use, raw string) (token.Claims, error) {
	p := place{use: use}
	if use == token.Dataplane {
		p.mesh = peek(raw).Mesh
	}
	v, err := t.verifier(ctx, p)
	if err != nil {
		return token.Claims{}, err
	}
	return v.Verify(raw, use, t.cfg.Now())
}

// Zone authorizes a zone's stream: the zone that a token is bound to.
func (t *Tokens) Zone(ctx context.Context, raw string) (string, error) {
	c, err := t.Verify(ctx, token.Zone, raw)
	if err != nil {
		return "", err
	}
	return c.Zone, nil
}

func (t *Tokens) verifier(ctx context.Context, p place) (*token.Verifier, error) {
	head, err := t.cfg.Store.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("check token: %w", err)
	}
	t.mu.Lock()
	have, ok := t.cache[p]
	t.mu.Unlock()
	if ok && have.at == head {
		return have.verifier, nil
	}
	keys, err := t.keys(ctx, p)
	if err != nil {
		return nil, err
	}
	revoked, err := t.Revoked(ctx, p.use, p.mesh)
	if err != nil {
		return nil, err
	}
	public := make([]token.PublicKey, len(keys))
	for i, k := range keys {
		public[i] = k.Public()
	}
	v := token.NewVerifier(public, revoked)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.cache) >= maxCached {
		clear(t.cache)
	}
	// The head was read before the keys, so what is kept is never older than it says.
	t.cache[p] = cached{at: head, verifier: v}
	return v, nil
}

// Revoked lists the revocations of a use; those of dataplanes are per mesh.
func (t *Tokens) Revoked(ctx context.Context, use token.Use, meshName string) ([]token.Revocation, error) {
	list, _, err := t.revocations(ctx, use, meshName)
	return list, err
}

// Entry is one revoked token.
type Entry struct {
	token.Revocation
	// Use and Mesh of the token.
	Use  token.Use
	Mesh string
}

// AllRevoked lists the revocations of every use and mesh, sorted.
func (t *Tokens) AllRevoked(ctx context.Context) ([]Entry, error) {
	page, err := t.cfg.Store.List(ctx, store.Query{Kind: mesh.KindSecret, NameContains: "-token-revocations"})
	if err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	var out []Entry
	for _, r := range page.Items {
		use := token.Use(strings.TrimSuffix(r.Name, "-token-revocations"))
		if r.Name != token.RevocationsName(use) || (use == token.Dataplane) != (r.Mesh != "") {
			continue
		}
		data, err := secretData(r)
		if err != nil {
			return nil, err
		}
		list, err := token.ParseRevocations(data)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", r.Key, err)
		}
		for _, x := range list {
			out = append(out, Entry{x, use, r.Mesh})
		}
	}
	return out, nil
}

func (t *Tokens) revocations(ctx context.Context, use token.Use, meshName string) ([]token.Revocation, mesh.Resource, error) {
	key := mesh.Key{Kind: mesh.KindSecret, Mesh: meshName, Name: token.RevocationsName(use)}
	r, err := t.cfg.Store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, mesh.Resource{Key: key}, nil
	}
	if err != nil {
		return nil, r, fmt.Errorf("read revocations: %w", err)
	}
	data, err := secretData(r)
	if err != nil {
		return nil, r, err
	}
	list, err := token.ParseRevocations(data)
	return list, r, err
}

// Revoke puts a token on the list of its use; from then on it is refused.
func (t *Tokens) Revoke(ctx context.Context, author string, use token.Use, meshName string, rev token.Revocation) (store.Position, error) {
	for try := 1; ; try++ {
		list, current, err := t.revocations(ctx, use, meshName)
		if err != nil {
			return store.Position{}, err
		}
		if list, err = token.Revoke(list, rev, t.cfg.Now()); err != nil {
			return store.Position{}, fmt.Errorf("%w: %w", ErrFull, err)
		}
		data, err := token.MarshalRevocations(list)
		if err != nil {
			return store.Position{}, fmt.Errorf("revoke token: %w", err)
		}
		op, err := secret(current.Key, data, false)
		if err != nil {
			return store.Position{}, err
		}
		op.IfRevision = &current.Revision
		at, err := t.cfg.Store.Write(ctx, author, []store.Op{op})
		if errors.Is(err, store.ErrConflict) && try < attempts {
			continue
		}
		if err != nil {
			return at, fmt.Errorf("revoke token: %w", err)
		}
		return at, nil
	}
}

// Peeked is what a token claims of itself, unverified.
type Peeked struct {
	// Use, empty when it cannot be told.
	Use token.Use
	// Mesh of a dataplane token.
	Mesh string
}

// Peek reads which use and mesh a token claims. Nothing may be granted on it.
func Peek(raw string) Peeked { return peek(raw) }

func peek(raw string) Peeked {
	parts := strings.Split(raw, ".")
	if len(raw) > token.MaxSize || len(parts) != 3 {
		return Peeked{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return Peeked{}
	}
	var c struct {
		Audience any    `json:"aud"`
		Mesh     string `json:"mesh"`
	}
	if json.Unmarshal(payload, &c) != nil {
		return Peeked{}
	}
	if list, ok := c.Audience.([]any); ok && len(list) == 1 {
		c.Audience = list[0]
	}
	aud, _ := c.Audience.(string)
	_, use, _ := strings.Cut(aud, "/")
	return Peeked{Use: token.Use(use), Mesh: c.Mesh}
}
