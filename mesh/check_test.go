package mesh

import (
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"
)

// The sizes that Envoy 1.40 reports of these expressions.
func TestProgramSizeIsNearEnvoys(t *testing.T) {
	for expr, envoy := range map[string]int{
		`a{500}`: 504, `[a-z]{500}`: 504, `(a|bb|ccc){100}`: 804, `[^/]{100}`: 204, `.{100}`: 204, `(?i)abc{100}`: 106,
		`\pL{50}`: 354, `\pL{200}`: 1404, `(x+){200}`: 804, `(?:x*){200}`: 403, `(x?){200}`: 804, `[a-cx-z0-9]{100}`: 304,
		`\w{100}`: 304, `(foo|bar|baz|qux){60}`: 724, `\d{50}\D{50}`: 154, `^a{200}$`: 202, `(?:ab|cd){2,100}`: 502,
		`[a-z]{1,200}`: 403, `(?:a{30}){30}`: 904,
	} {
		parsed, err := syntax.Parse(expr, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		prog, err := syntax.Compile(parsed.Simplify())
		if err != nil {
			t.Fatal(err)
		}
		// What we let pass must pass there, where 1000 are allowed.
		if got := programSize(prog); float64(got) < 0.92*float64(envoy)-4 {
			t.Errorf("%s: estimated %d, Envoy says %d", expr, got, envoy)
		}
	}
}

func TestRegex(t *testing.T) {
	for expr, want := range map[string]string{
		`/api/v[0-9]+`: "", `(`: "missing closing", `a{2000}`: "invalid repeat count", `(?=x)`: "invalid",
		`\1`: "invalid escape", `[a-z]{950}`: "too large", strings.Repeat("x", 1025): "at most 1024", `\C`: "invalid escape",
	} {
		var p Problems
		p.regex("value", expr)
		if got := p.Error(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%.20s: want a problem with %q, got %q", expr, want, got)
		}
	}
}

// The forms of names are checked by hand, since every label of every pod is. They
// are what the patterns say.
func TestForms(t *testing.T) {
	const octets = "aZ0-_. \xc3\n"
	label := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?\z`)
	subdomain := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\z`)
	word := regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\z`)
	dns := regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?\z`)
	n := 0
	var try func(s string)
	try = func(s string) {
		n++
		if isLabel(s) != label.MatchString(s) || isSubdomain(s) != subdomain.MatchString(s) || isLabelWord(s) != word.MatchString(s) ||
			(CheckDNSLabel(s) == "") != dns.MatchString(s) || (CheckName(s) == "") != subdomain.MatchString(s) {
			t.Errorf("%q: label %t, subdomain %t, word %t", s, isLabel(s), isSubdomain(s), isLabelWord(s))
		}
		if len(s) < 5 {
			for i := range len(octets) {
				try(s + octets[i:i+1])
			}
		}
	}
	try("")
	if n < 60_000 {
		t.Error("only", n)
	}
}

func TestCheckDNSLabel(t *testing.T) {
	for _, ok := range []string{"a", "web", "a-1", strings.Repeat("x", 63), "y", "no"} {
		if got := CheckDNSLabel(ok); got != "" {
			t.Errorf("%q: %s", ok, got)
		}
	}
	for _, bad := range []string{"", "1a", "-a", "a-", "A", "a.b", "a_b", strings.Repeat("x", 64), "ä", "a\n", "a "} {
		if CheckDNSLabel(bad) == "" {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestHosts(t *testing.T) {
	for host, ok := range map[string]bool{
		"10.0.0.1": true, "::1": true, "gw.example.com": true, "localhost": true, "1e100.net": true,
		"": false, "10.0.0": false, "10.0.0.256": false, "0.0.0.0": false, "::": false, "fe80::1%eth0": false, "224.0.0.1": false,
		"a..b": false, "-a.com": false, "a.com.": false, strings.Repeat("a", 64) + ".com": false, strings.Repeat("a.", 127) + "com": false,
		"255.255.255.255": false, "a:80": false,
	} {
		var p Problems
		p.host("address", host)
		if (len(p) == 0) != ok {
			t.Errorf("%q: want valid %v, got %v", host, ok, p)
		}
	}
}
