package mesh

import (
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxLabelLength is the most octets an RFC 1035 label has.
const MaxLabelLength = 63

var (
	httpTokenForm    = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	sectionForm      = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$`)
	pathOctetsForm   = regexp.MustCompile(`^[!-~]*$`)
	spiffePrefixForm = regexp.MustCompile(`^[a-z0-9._-]+(/[A-Za-z0-9._-]+)*/?$`)
)

// CheckDNSLabel says what is wrong with an RFC 1035 label; "" when nothing is.
func CheckDNSLabel(s string) string {
	switch {
	case s == "":
		return "is required"
	case len(s) > MaxLabelLength:
		return fmt.Sprintf("has %d octets; an RFC 1035 label has at most %d", len(s), MaxLabelLength)
	case !isLabel(s) || !isLower(s[0]):
		return fmt.Sprintf("%q is no RFC 1035 label: lower-case letters, digits and '-', beginning with a letter and not ending with '-'", abridge(s))
	}
	return ""
}

// CheckName says what is wrong with the name of a resource that is not bound to
// be a label: an RFC 1123 subdomain.
func CheckName(s string) string {
	switch {
	case s == "":
		return "is required"
	case len(s) > 253:
		return fmt.Sprintf("has %d octets; at most 253 are allowed", len(s))
	case !isSubdomain(s):
		return fmt.Sprintf("%q is no name: lower-case letters, digits, '-' and '.' are allowed, beginning and ending with a letter or digit", abridge(s))
	}
	return ""
}

// add records a reason, if there is one.
func (p *Problems) add(field, reason string) {
	if reason != "" {
		p.Addf(field, "%s", reason)
	}
}

func (p *Problems) count(field string, n, low, high int) {
	switch {
	case n < low && low == 1:
		p.Addf(field, "is required; 1 to %d items are allowed", high)
	case n < low || n > high:
		p.Addf(field, "has %d items; %d to %d are allowed", n, low, high)
	}
}

func (p *Problems) length(field, s string, high int) {
	if len(s) > high {
		p.Addf(field, "has %d octets; at most %d are allowed", len(s), high)
	}
}

// oneOf checks a word of a fixed set; the empty word is left to the caller.
func (p *Problems) oneOf(field, s string, words ...string) {
	if s == "" {
		p.Addf(field, "is required; %s", choices(words))
		return
	}
	p.oneOfOrNone(field, s, words...)
}

func (p *Problems) oneOfOrNone(field, s string, words ...string) {
	if s != "" && !slices.Contains(words, s) {
		p.Addf(field, "must not be %q; %s", abridge(s), choices(words))
	}
}

func choices(words []string) string {
	if len(words) == 1 {
		return "only " + words[0] + " is allowed"
	}
	return "allowed are " + strings.Join(words, ", ")
}

func (p *Problems) port(field string, port uint32) {
	switch {
	case port == 0:
		p.Addf(field, "is required; a port is 1 to 65535")
	case port > 65535:
		p.Addf(field, "must be 1 to 65535, not %d", port)
	}
}

func (p *Problems) portOrNone(field string, port uint32) {
	if port != 0 {
		p.port(field, port)
	}
}

// protocols of ports.
func protocols() []string { return []string{"tcp", "http", "http2", "grpc"} }

// ip checks an address that proxies dial or bind.
func (p *Problems) ip(field, s string) {
	if s == "" {
		p.Addf(field, "is required; it must be an IP address")
		return
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "":
		p.Addf(field, "must be an IP address such as 10.0.0.7 or fd00::7, not %q", abridge(s))
	case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		p.Addf(field, "must be the address of one interface, not %s", s)
	}
}

func (p *Problems) ipOrNone(field, s string) {
	if s != "" {
		p.ip(field, s)
	}
}

// host checks an IP address or a DNS name.
func (p *Problems) host(field, s string) {
	if _, err := netip.ParseAddr(s); err == nil || s == "" {
		p.ip(field, s)
		return
	}
	p.dnsName(field, s)
}

func (p *Problems) dnsName(field, s string) {
	reason := CheckName(s)
	for _, label := range strings.Split(s, ".") {
		if len(label) > MaxLabelLength && reason == "" {
			reason = fmt.Sprintf("has a label of %d octets; at most %d are allowed", len(label), MaxLabelLength)
		}
	}
	if reason == "" && numericTop(s) {
		reason = fmt.Sprintf("%q is neither an IP address nor a DNS name", abridge(s))
	}
	p.add(field, reason)
}

// numericTop: a name whose last label is a number would be taken for an address.
func numericTop(s string) bool {
	_, err := strconv.ParseUint(s[strings.LastIndexByte(s, '.')+1:], 10, 64)
	return err == nil
}

// positive and notNegative check durations that are given.
func (p *Problems) positive(field string, d *Duration) {
	if d != nil && d.Duration <= 0 {
		p.Addf(field, "must be more than 0, not %s", d)
	}
}

func (p *Problems) notNegative(field string, d *Duration) {
	if d != nil && d.Duration < 0 {
		p.Addf(field, "must not be negative, not %s", d)
	}
}

// Bounds of regular expressions. Envoy refuses programs of more instructions
// than re2.max_program_size.error_level, which the bootstrap sets to 1000; our
// count of them is near, not exact.
const (
	maxRegex        = 1024
	maxRegexProgram = 900
)

func (p *Problems) regex(field, s string) {
	if len(s) > maxRegex {
		p.length(field, s, maxRegex)
		return
	}
	expr, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		p.Addf(field, "is no regular expression (RE2): %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return
	}
	prog, err := syntax.Compile(expr.Simplify())
	if err != nil {
		p.Addf(field, "is no regular expression (RE2): %v", err)
		return
	}
	if n := programSize(prog); n > maxRegexProgram {
		p.Addf(field, "is too large: about %d instructions when compiled (RE2), of which %d are allowed; repeat less", n, maxRegexProgram)
	}
}

// programSize estimates the instructions of RE2, which works on octets where
// Go's engine works on runes: a class costs one for each of its ranges.
func programSize(prog *syntax.Prog) int {
	n := 0
	for i := range prog.Inst {
		inst := &prog.Inst[i]
		n++
		switch inst.Op {
		case syntax.InstRune1:
			n += utf8.RuneLen(inst.Rune[0]) - 1
		case syntax.InstRuneAnyNotNL:
			n++
		case syntax.InstRune:
			for j := 2; j+1 < len(inst.Rune) && inst.Rune[j] <= unicode.MaxLatin1; j += 2 {
				n++
			}
		}
	}
	return n
}

func (p *Problems) headerName(field, s string) {
	switch {
	case s == "":
		p.Addf(field, "is required; a header's name is 1 to 256 octets")
	case len(s) > 256:
		p.length(field, s, 256)
	case !httpTokenForm.MatchString(s):
		p.Addf(field, "%q is no name of a header: letters, digits and !#$%%&'*+-.^_`|~ are allowed", abridge(s))
	}
}

// headerValue refuses what would end or split a header.
func (p *Problems) headerValue(field, s string) {
	p.length(field, s, 4096)
	for _, r := range s {
		if r < ' ' && r != '\t' || r == 0x7f {
			p.Addf(field, "must not contain control characters")
			return
		}
	}
}

func (p *Problems) spiffeID(field, s string) {
	p.length(field, s, maxSpiffeID)
	id, err := spiffeid.FromString(s)
	switch {
	case s == "":
		p.Addf(field, "is required; a SPIFFE ID such as spiffe://default.west.mesh.local/workload/web")
	case err != nil:
		p.Addf(field, "%q is no SPIFFE ID: %v; it is spiffe://<trust domain>/<path>", abridge(s), err)
	case id.Path() == "":
		p.Addf(field, "%q has no path; that is a trust domain, not a workload", abridge(s))
	}
}

// labelPairs checks keys and values of labels.
func (p *Problems) labelPairs(field string, labels map[string]string) {
	if len(labels) > MaxLabels {
		p.Addf(field, "has %d labels; at most %d are allowed", len(labels), MaxLabels)
	}
	for _, k := range sortedKeys(labels) {
		p.addLabel(field, k, checkLabelKey(k))
		if CanonicalLabel(k) == LabelDisplayName {
			// Names of Dataplanes and policies are longer than values of labels may be.
			p.addLabel(field, k, CheckName(labels[k]))
			continue
		}
		p.addLabel(field, k, checkLabelValue(labels[k]))
	}
}

// addLabel is add for a label of a field. Its path is made only when something is
// wrong: a start of a zone checks those of every pod.
func (p *Problems) addLabel(field, key, reason string) {
	if reason != "" {
		p.add(labelPath(field, key), reason)
	}
}

func checkLabelKey(k string) string {
	prefix, name, ok := strings.Cut(k, "/")
	if !ok {
		prefix, name = "", k
	}
	switch {
	case ok && (len(prefix) > 253 || !isSubdomain(prefix)):
		return "the key's prefix must be a DNS name of at most 253 octets"
	case len(name) > 63 || !isLabelWord(name):
		return "the key must have 1 to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
	}
	return ""
}

// isSubdomain reports whether s is labels of lower-case letters, digits and '-',
// with dots between them.
func isSubdomain(s string) bool {
	for {
		label, rest, more := strings.Cut(s, ".")
		if !isLabel(label) {
			return false
		}
		if !more {
			return true
		}
		s = rest
	}
}

// isLabel reports whether s is lower-case letters, digits and '-', and begins and
// ends with a letter or digit.
func isLabel(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case isLower(c), '0' <= c && c <= '9', c == '-' && i > 0 && i < len(s)-1:
		default:
			return false
		}
	}
	return s != ""
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }

// isLabelWord reports whether s is letters, digits, '-', '_' and '.', and begins and
// ends with a letter or digit.
func isLabelWord(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case (c == '-' || c == '_' || c == '.') && i > 0 && i < len(s)-1:
		default:
			return false
		}
	}
	return s != ""
}

func checkLabelValue(v string) string {
	if v != "" && (len(v) > 63 || !isLabelWord(v)) {
		return "the value must be empty or have at most 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
	}
	return ""
}

func sortedKeys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// section checks the name of a port: a label, or the number it is named by.
func (p *Problems) section(field, s string) {
	if s != "" && !sectionForm.MatchString(s) {
		p.Addf(field, "%q is no name of a port: a label of at most 63 lower-case letters, digits and '-', or the port's number", abridge(s))
	}
}
