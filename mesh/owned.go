package mesh

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"iter"
	"maps"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what a zone may tell of itself.
const (
	// MaxFactBytes bounds spec and status of one fact together.
	MaxFactBytes = 256 << 10
	// MaxFactLabels bounds the labels of one fact.
	MaxFactLabels = 64
	// maxFactText bounds a label's key and value and a name.
	maxFactText = 253
	// maxTrustCertificates bounds the authorities in one MeshTrust.
	maxTrustCertificates = 64
)

var (
	factLabelName = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

// NormalizeFact returns the resource as its owner must publish it: the key and
// the labels say the owning zone, and revision and times, which are the store's,
// are cleared. Both ends of a stream normalize, so that their digests agree.
func NormalizeFact(zone string, r Resource) Resource {
	out := Resource{Key: r.Key, Labels: r.Labels, Spec: specOrEmpty(r.Spec), Status: r.Status}
	out.Zone = zone
	if r.Labels[LabelZone] != zone || r.Labels[LabelOrigin] != "zone" {
		labels := make(map[string]string, len(r.Labels)+2)
		maps.Copy(labels, r.Labels)
		labels[LabelZone], labels[LabelOrigin] = zone, "zone"
		out.Labels = labels
	}
	return out
}

// CheckFact checks a resource that says that it is owned by zone, whoever
// carries it. The list trustDomains has those that the identities of the
// resource's mesh yield in that zone; a MeshTrust of any other domain, or a
// MeshService that claims an identity outside of them, is a lie. Unknown fields
// of a spec are no problem: a newer zone may have more to tell.
func CheckFact(zone string, r Resource, trustDomains []string) Problems {
	var ps Problems
	if r.Key.Zone != zone {
		ps.Addf("zone", "must be %q, the zone that tells it, not %q", zone, r.Key.Zone)
	}
	k, ok := KindByName(r.Kind)
	if !ok {
		ps.Addf("type", "unknown kind %q", clipFact(string(r.Kind)))
		return ps
	}
	if !k.Flow.Has(ZoneToGlobal) {
		ps.Addf("type", "a zone may not write kind %s", k.Name)
		return ps
	}
	checkFactKey(k, r, &ps)
	if n := len(r.Spec) + len(r.Status); n > MaxFactBytes {
		ps.Addf("spec", "spec and status have %d bytes, at most %d are allowed", n, MaxFactBytes)
		return ps
	}
	if len(r.Status) > 0 && !json.Valid(r.Status) {
		ps.Addf("status", "must be JSON")
	}
	spec := k.New()
	if err := json.Unmarshal(specOrEmpty(r.Spec), spec); err != nil {
		ps.Addf("spec", "%v", err)
		return ps
	}
	ps.In("spec", spec.Validate())
	checkClaims(zone, spec, trustDomains, &ps)
	if p, ok := spec.(Policy); ok && k.Policy != nil {
		ps = append(ps, checkRole(&r, p)...)
	}
	if ns := r.Labels[LabelNamespace]; k.SystemOnly && ns != "" && !IsSystemNamespace(ns) {
		ps.Addf(labelPath("labels", LabelNamespace), "must be %s for kind %s, not %q", SystemNamespace, k.Name, clipFact(ns))
	}
	if t, ok := spec.(*MeshTrust); ok {
		checkCertificates(t, &ps)
	}
	return ps
}

// CheckClaims is the part of CheckFact that a receiver in another zone repeats:
// the trust domains and identities that a resource of zone claims must be that
// zone's. It says nothing of a spec that it cannot read, or does not know.
func CheckClaims(zone string, r Resource, trustDomains []string) Problems {
	var ps Problems
	if k, ok := KindByName(r.Kind); ok && (k.Name == KindMeshTrust || k.Name == KindMeshService) {
		if spec := k.New(); json.Unmarshal(specOrEmpty(r.Spec), spec) == nil {
			checkClaims(zone, spec, trustDomains, &ps)
		}
	}
	return ps
}

// CheckCrossing is what a receiver in another zone checks besides, without
// knowing of any identity: the name is of the namespace that the labels say, and
// a policy is a producer's, by its own computation. A policy whose spec it cannot
// read is refused: what it would do is not known.
func CheckCrossing(r Resource) Problems {
	var ps Problems
	k, ok := KindByName(r.Kind)
	if !ok {
		return nil
	}
	checkFactKey(k, r, &ps)
	if k.Policy == nil || len(ps) > 0 {
		return ps
	}
	spec := k.New()
	if err := json.Unmarshal(specOrEmpty(r.Spec), spec); err != nil {
		ps.Addf("spec", "%v", err)
		return ps
	}
	if p, ok := spec.(Policy); ok {
		ps = append(ps, checkRole(&r, p)...)
	}
	if len(ps) == 0 && !crossesZones(r.Labels) {
		ps.Addf(labelPath("labels", LabelPolicyRole), "is %q; only policies of producers concern other zones", clipFact(r.Labels[LabelPolicyRole]))
	}
	return ps
}

func checkClaims(zone string, spec Spec, trustDomains []string, ps *Problems) {
	mine := strings.Join(trustDomains, ", ")
	switch s := spec.(type) {
	case *MeshTrust:
		if !slices.Contains(trustDomains, s.TrustDomain) {
			ps.Addf("spec.trustDomain", "%q is not a trust domain of zone %s (%s)", clipFact(s.TrustDomain), zone, mine)
		}
	case *MeshService:
		for i, id := range s.Identities {
			if !slices.ContainsFunc(trustDomains, func(td string) bool { return strings.HasPrefix(id.Value, "spiffe://"+td+"/") }) {
				ps.Addf("spec.identities["+strconv.Itoa(i)+"].value", "%q is not in a trust domain of zone %s (%s)", clipFact(id.Value), zone, mine)
			}
		}
	}
}

func checkFactKey(k Kind, r Resource, ps *Problems) {
	reason := checkResourceName(k, &r)
	ps.add("name", reason)
	if reason == "" {
		ps.add("name", checkServerName(&r))
	}
	if k.Scope == ScopeMesh && !factLabelName.MatchString(r.Mesh) {
		ps.Addf("mesh", "%q must be an RFC 1035 label", clipFact(r.Mesh))
	}
	if k.Scope == ScopeGlobal && r.Mesh != "" {
		ps.Addf("mesh", "must be empty for kind %s", k.Name)
	}
	if len(r.Labels) > MaxFactLabels {
		ps.Addf("labels", "has %d labels, at most %d are allowed", len(r.Labels), MaxFactLabels)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		if key == "" || len(key) > maxFactText || len(r.Labels[key]) > maxFactText || strings.ContainsRune(key+r.Labels[key], 0) {
			ps.Addf("labels", "key and value of %q must have at most %d octets and no NUL", clipFact(key), maxFactText)
		}
	}
	// What selects by name or mesh trusts these labels.
	want := computed(k, &r)
	for _, key := range []string{LabelDisplayName, LabelMesh} {
		if have, ok := r.Labels[key]; ok && have != want[key] {
			ps.Addf(labelPath("labels", key), "must be %q or absent, not %q", want[key], clipFact(have))
		}
	}
}

func checkCertificates(s *MeshTrust, ps *Problems) {
	count := 0
	for i, b := range s.CABundles {
		field := "spec.caBundles[" + strconv.Itoa(i) + "].pem.value"
		rest := []byte(b.PEM.Value)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if count++; count > maxTrustCertificates {
				ps.Addf(field, "more than %d certificates in one MeshTrust", maxTrustCertificates)
				return
			}
			if block.Type != "CERTIFICATE" {
				ps.Addf(field, "holds a PEM block %q; only CERTIFICATE is allowed, a private key never leaves its zone", clipFact(block.Type))
				continue
			}
			if _, err := x509.ParseCertificate(block.Bytes); err != nil {
				ps.Addf(field, "%v", err)
			}
		}
	}
	if count == 0 {
		ps.Addf("spec.caBundles", "must hold at least one certificate")
	}
}

// FactDigest is the digest of one fact's content: key, labels, spec and status.
func FactDigest(r Resource) [sha256.Size]byte {
	h := sha256.New()
	text := func(s string) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	for _, s := range []string{string(r.Kind), r.Mesh, r.Zone, r.Name} {
		text(s)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		text(k)
		text(r.Labels[k])
	}
	text("")
	text(string(r.Spec))
	text(string(r.Status))
	return [sha256.Size]byte(h.Sum(nil))
}

// FactSet is the digests of a set of facts, and the digest over all of them. What a
// change costs does not grow with the set. Not safe for concurrent use.
type FactSet struct {
	of map[Key][sha256.Size]byte
	// sum of the digests as numbers, modulo 2^256, the lowest word first. A key is in
	// the set once, and its digest is of the key too.
	sum [sha256.Size / 8]uint64
}

// NewFactSet is an empty set.
func NewFactSet() *FactSet { return &FactSet{of: map[Key][sha256.Size]byte{}} }

// Get returns the digest of a fact.
func (s *FactSet) Get(k Key) (digest [sha256.Size]byte, ok bool) {
	digest, ok = s.of[k]
	return digest, ok
}

// Keys of the facts, in no order. The set must not change meanwhile.
func (s *FactSet) Keys() iter.Seq[Key] { return maps.Keys(s.of) }

// Len counts the facts.
func (s *FactSet) Len() int { return len(s.of) }

// Put adds a fact, or replaces it.
func (s *FactSet) Put(k Key, digest [sha256.Size]byte) {
	s.Remove(k)
	s.of[k] = digest
	carry := uint64(0)
	for i := range s.sum {
		s.sum[i], carry = bits.Add64(s.sum[i], word(digest, i), carry)
	}
}

// Remove takes a fact out.
func (s *FactSet) Remove(k Key) {
	digest, ok := s.of[k]
	if !ok {
		return
	}
	delete(s.of, k)
	borrow := uint64(0)
	for i := range s.sum {
		s.sum[i], borrow = bits.Sub64(s.sum[i], word(digest, i), borrow)
	}
}

func word(digest [sha256.Size]byte, i int) uint64 { return binary.LittleEndian.Uint64(digest[8*i:]) }

// Clone is a set of its own.
func (s *FactSet) Clone() *FactSet { return &FactSet{of: maps.Clone(s.of), sum: s.sum} }

// Digest over the set, as 64 lower-case hex characters. Zone and global compare
// theirs to know that nothing has to be sent.
func (s *FactSet) Digest() string {
	text := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+sha256.Size), uint64(len(s.of)))
	for _, w := range s.sum {
		text = binary.LittleEndian.AppendUint64(text, w)
	}
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}

// FactsDigest is the digest over a set of normalized facts.
func FactsDigest(facts map[Key]Resource) string {
	set := NewFactSet()
	for k, r := range facts {
		set.Put(k, FactDigest(r))
	}
	return set.Digest()
}

func specOrEmpty(spec json.RawMessage) json.RawMessage {
	if len(spec) == 0 {
		return json.RawMessage("{}")
	}
	return spec
}

// clipFact shortens foreign text for an error message.
func clipFact(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
