package delta

import (
	"slices"
	"strings"
)

// blamed finds which of names Envoy's text of a CDS or LDS NACK refuses, with the
// words for each. The texts are
//
//	Error adding/updating cluster(s) NAME: WORDS, NAME: WORDS. Consider…
//	Error adding/updating listener(s) NAME: WORDS\nNAME: WORDS\n
//
// None found means that the text has another form.
func blamed(text string, names []string) map[string]string {
	type hit struct {
		name       string
		start, end int // of "NAME:" with its delimiter
	}
	var hits []hit
	for _, name := range names {
		for _, before := range []string{"(s) ", ", ", "\n"} {
			if i := strings.Index(text, before+name+": "); i >= 0 {
				hits = append(hits, hit{name, i, i + len(before) + len(name) + 2})
				break
			}
		}
	}
	slices.SortFunc(hits, func(a, b hit) int { return a.start - b.start })
	found := make(map[string]string, len(hits))
	for i, h := range hits {
		end := len(text)
		if i+1 < len(hits) {
			end = max(h.end, hits[i+1].start)
		}
		found[h.name] = strings.TrimSpace(text[h.end:end])
	}
	return found
}
