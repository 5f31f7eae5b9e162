package copilot

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

var reAnyAnchor = regexp.MustCompile(`\bS[0-9]{1,4}\b`)

// renumber gives the cited sources the anchors S1, S2, … in the order in which the answer cites them,
// and the others the numbers after those: readers look for [S1] first.
func renumber(sources []Source, c Checked) ([]Source, Checked) {
	names := make(map[string]string, len(sources))
	name := func(old string) {
		if _, ok := names[old]; !ok {
			names[old] = fmt.Sprintf("S%d", len(names)+1)
		}
	}
	for _, a := range c.Citations {
		name(a)
	}
	for _, s := range sources {
		name(s.Anchor)
	}
	anchor := func(old string) string {
		if n, ok := names[old]; ok {
			return n
		}
		return old // an anchor that a draft made up
	}
	// Only anchors in brackets are ours to change; "S3" in a text may be anything.
	inText := func(text string) string {
		return fact.Anchors.ReplaceAllStringFunc(text, func(cite string) string { return reAnyAnchor.ReplaceAllStringFunc(cite, anchor) })
	}
	sources = slices.Clone(sources)
	for i := range sources {
		sources[i].Anchor = anchor(sources[i].Anchor)
	}
	c.Text = inText(c.Text)
	c.Citations = slices.Clone(c.Citations)
	for i, a := range c.Citations {
		c.Citations[i] = anchor(a)
	}
	c.Sentences = slices.Clone(c.Sentences)
	for i, s := range c.Sentences {
		s.Sentence = inText(s.Sentence)
		s.Cites = slices.Clone(s.Cites)
		for j, a := range s.Cites {
			s.Cites[j] = anchor(a)
		}
		s.Checked = slices.Clone(s.Checked)
		for j, found := range s.Checked {
			if i := strings.LastIndex(found, " in "); i >= 0 {
				s.Checked[j] = found[:i] + reAnyAnchor.ReplaceAllStringFunc(found[i:], anchor)
			}
		}
		c.Sentences[i] = s
	}
	return sources, c
}
