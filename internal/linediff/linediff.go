// Package linediff shows how two texts differ. In flow two texts, out flows one
// with a "-", "+" or " " before each line.
package linediff

import (
	"fmt"
	"strings"
)

const (
	// around is how many equal lines are shown beside those that differ.
	around = 2
	// maxCells bounds the work: beyond it, what differs is shown as gone and come.
	maxCells = 1 << 22
)

// Unified is the difference of two texts, "" for none. Equal lines far from any
// difference are left out, and "@@ n lines @@" says how many.
func Unified(old, next string) string {
	if old == next {
		return ""
	}
	return render(script(lines(old), lines(next)))
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

type edit struct {
	sign byte
	text string
}

// script is the shortest way from a to b, but for texts that are too long.
func script(a, b []string) []edit {
	var head, tail []edit
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		head, a, b = append(head, edit{' ', a[0]}), a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail, a, b = append(tail, edit{' ', a[len(a)-1]}), a[:len(a)-1], b[:len(b)-1]
	}
	out := append(head, middle(a, b)...)
	for i := len(tail) - 1; i >= 0; i-- {
		out = append(out, tail[i])
	}
	return out
}

// middle finds the longest common subsequence.
func middle(a, b []string) []edit {
	var out []edit
	if (len(a)+1)*(len(b)+1) > maxCells {
		for _, s := range a {
			out = append(out, edit{'-', s})
		}
		for _, s := range b {
			out = append(out, edit{'+', s})
		}
		return out
	}
	width := len(b) + 1
	common := make([]int32, (len(a)+1)*width)
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i*width+j] = common[(i+1)*width+j+1] + 1
			} else {
				common[i*width+j] = max(common[(i+1)*width+j], common[i*width+j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, edit{' ', a[i]})
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[(i+1)*width+j] >= common[i*width+j+1]):
			out = append(out, edit{'-', a[i]})
			i++
		default:
			out = append(out, edit{'+', b[j]})
			j++
		}
	}
	return out
}

func render(script []edit) string {
	near := make([]bool, len(script))
	for i, e := range script {
		if e.sign == ' ' {
			continue
		}
		for j := max(0, i-around); j < min(len(script), i+around+1); j++ {
			near[j] = true
		}
	}
	var b strings.Builder
	skipped := 0
	flush := func() {
		if skipped > 0 {
			fmt.Fprintf(&b, "@@ %d lines @@\n", skipped)
			skipped = 0
		}
	}
	for i, e := range script {
		if !near[i] {
			skipped++
			continue
		}
		flush()
		b.WriteByte(e.sign)
		b.WriteByte(' ')
		b.WriteString(e.text)
		b.WriteByte('\n')
	}
	flush()
	return b.String()
}
