package redirect

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestConfigTravels(t *testing.T) {
	for name, c := range configs() {
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(data)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s: %s\nread back %+v, %v", name, data, got, err)
		}
	}
	got, err := Parse([]byte(`{"dns":{"mode":"all"},"inbound":{"excludePorts":[80,"90-92"]}}`))
	if err != nil || got.Inbound.Port != 15006 || got.Outbound.Port != 15001 || got.DNS.Port != 15053 || got.Proxy != (Proxy{1337, 1337}) ||
		!reflect.DeepEqual(got.Inbound.ExcludePorts, []Ports{{80, 80}, {90, 92}}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	for text, want := range map[string]string{
		`{"inbound":{"port":15001}}`:                            "inbound.port: inbound (15001), outbound (15001)",
		`{"outbound":{"excludePorts":["0"]}}`:                   `"0" is no port`,
		`{"outbound":{"excludePorts":["90-80"]}}`:               `"90-80" is no port or range`,
		`{"outbound":{"excludePorts":[70000]}}`:                 `"70000" is no port`,
		`{"outbound":{"excludeCIDRs":["10.0.0.0"]}}`:            "10.0.0.0",
		`{"outbound":{"excludeCIDRs":["::ffff:10.0.0.0/100"]}}`: "outbound.excludeCIDRs[0]: must be a network",
		`{"inbound":{"includeCIDRs":[""]}}`:                     "inbound.includeCIDRs[0]: must be a network",
		`{"dns":{"mode":"some"}}`:                               `dns.mode: "some" is not one of off, all, nameservers`,
		`{"dns":{"mode":"nameservers"}}`:                        "dns.nameservers: mode nameservers needs at least one",
		`{"dns":{"nameservers":["fe80::1"]}}`:                   "dns.nameservers[0]: must be",
		`{"excludeUIDs":[{"first":5,"last":4}]}`:                "excludeUIDs[0]: last (4) must not be before first (5)",
		`{"families":["ipv5"]}`:                                 `families[0]: "ipv5" is not one of ipv4, ipv6`,
		`{"families":["ipv4","ipv4","ipv4"]}`:                   "families: must be ipv4, ipv6 or both",
		`{"inbound":{"prot":1}}`:                                `unknown field "prot"`,
		`{} {}`:                                                 "one JSON object expected",
		``:                                                      "EOF",
		`{"vips":[` + strings.Repeat(`"10.0.0.0/8",`, 256) + `"10.0.0.0/8"]}`: "vips: 257 entries, at most 256",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: error %v, want %q", text, err, want)
		}
	}
}

func TestParseUIDs(t *testing.T) {
	for text, want := range map[string]UIDs{
		"1000":                   {First: 1000, Last: 1000},
		"1000-1010":              {First: 1000, Last: 1010},
		"1000:53":                {First: 1000, Last: 1000, Ports: []Ports{{53, 53}}},
		"1000-1010:53,8000-8080": {First: 1000, Last: 1010, Ports: []Ports{{53, 53}, {8000, 8080}}},
	} {
		if got, err := ParseUIDs(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a", "5-4", "1000:", "1000:0", "-1", "1:2:3"} {
		if got, err := ParseUIDs(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"dns":{"mode":"all"},"inbound":{"excludePorts":[80,"90-92"],"includeCIDRs":["::/0"]},"excludeUIDs":[{"first":1,"last":2,"ports":[53]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		_ = Rules(c).String()
	})
}
