package offline

import (
	"cmp"
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// Retrieve implements [copilot.Model]. Tools are chosen by what their input schemas ask for: a tool
// whose required arguments can be filled with an id at hand, or with words to search for. Higher
// levels go first: a workflow, then composed tools, then atomic ones; lower ones serve when the
// higher ones failed or do not go deep enough.
func (*Model) Retrieve(_ context.Context, req copilot.RetrieveRequest) (copilot.Step, copilot.Usage, error) {
	c := chooser{req: req, tools: make([]signature, 0, len(req.Tools)), done: map[string]bool{}}
	for _, t := range req.Tools {
		if s, ok := read(t); ok {
			c.tools = append(c.tools, s)
		}
	}
	for _, p := range req.Past {
		c.done[p.Call.Tool+" "+string(p.Call.Args)] = true
	}
	ps := parts(req.Question, req.Plan.IDs)
	switch {
	case req.Round == 1:
		c.first(ps)
	case req.Round <= 3:
		c.next(ps)
	}
	return copilot.Step{Calls: c.calls[:min(len(c.calls), req.CallsLeft)]}, copilot.Usage{}, nil
}

// signature is a tool as far as its input schema tells how to call it.
type signature struct {
	copilot.Tool
	props    map[string]property
	required []string
}

type property struct {
	Type    any    `json:"type"`
	Pattern string `json:"pattern"`
	re      *regexp.Regexp
}

func read(t copilot.Tool) (signature, bool) {
	var schema struct {
		Properties map[string]property `json:"properties"`
		Required   []string            `json:"required"`
	}
	if json.Unmarshal(t.Input, &schema) != nil || len(schema.Properties) == 0 {
		return signature{}, false
	}
	for name, p := range schema.Properties {
		if p.Pattern != "" {
			re, err := regexp.Compile(p.Pattern)
			if err != nil {
				return signature{}, false // a pattern of another dialect: leave the tool alone
			}
			p.re = re
			schema.Properties[name] = p
		}
	}
	slices.Sort(schema.Required)
	return signature{Tool: t, props: schema.Properties, required: schema.Required}, true
}

var searchWords = []string{"query", "question", "q", "search", "text", "keywords"}

// takes reports whether the argument may be the id: it is named for the id's kind, or its pattern
// is made for such ids.
func (s signature) takes(arg, id string) bool {
	p := s.props[arg]
	if p.re != nil && !p.re.MatchString(id) {
		return false
	}
	kind, _, _ := fact.KindOfID(id)
	if arg == kind+"_id" || arg == kind || arg == "id" && strings.Contains(s.Name, kind) {
		return true
	}
	return p.re != nil && !p.re.MatchString("zz") && !p.re.MatchString("some words")
}

// fill returns the arguments of a call with the id (which may be "") and the words, if these fill
// all that is required.
func (s signature) fill(id, words string) (args json.RawMessage, usesID, usesWords, ok bool) {
	m := map[string]any{}
	for _, r := range s.required {
		switch {
		case id != "" && !usesID && s.takes(r, id):
			m[r], usesID = id, true
		case words != "" && slices.Contains(searchWords, r) && s.props[r].re == nil:
			m[r], usesWords = words, true
		default:
			return nil, false, false, false
		}
	}
	raw, err := json.Marshal(m)
	return raw, usesID, usesWords, err == nil && (usesID || usesWords)
}

func (s signature) rank(usesID, usesWords bool) int {
	switch s.Level {
	case atlas.Workflow:
		return 0
	case atlas.Composed:
		return 1
	case atlas.Atomic:
		return 2
	}
	switch { // the server does not say: judge by the arguments
	case usesID && usesWords:
		return 0
	case strings.HasPrefix(s.Name, "hybrid_") || strings.HasPrefix(s.Name, "semantic_"):
		return 1
	}
	return 2
}

type chooser struct {
	req   copilot.RetrieveRequest
	tools []signature
	done  map[string]bool
	calls []copilot.ToolCall
}

func (c *chooser) call(tool string, args json.RawMessage) bool {
	key := tool + " " + string(args)
	if c.done[key] || len(c.calls) >= 8 {
		return false
	}
	c.done[key] = true
	c.calls = append(c.calls, copilot.ToolCall{Tool: tool, Args: args})
	return true
}

// byID calls the tools of the best level that take the id. skip leaves out tools already tried.
func (c *chooser) byID(id, words string, skip func(string) bool) {
	type candidate struct {
		s    signature
		args json.RawMessage
		rank int
	}
	var all []candidate
	for _, s := range c.tools {
		if args, usesID, usesWords, ok := s.fill(id, words); ok && usesID && !skip(s.Name) {
			all = append(all, candidate{s, args, s.rank(usesID, usesWords)})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(a.rank, b.rank) })
	for i, x := range all {
		if x.rank != all[0].rank || i == 4 {
			return
		}
		c.call(x.s.Name, x.args)
	}
}

// recall asks what was remembered of a customer, beside the tools that are chosen by level.
func (c *chooser) recall(id string) {
	if kind, _, _ := fact.KindOfID(id); kind != fact.Customer {
		return
	}
	for _, s := range c.tools {
		if s.Name != copilot.MemoryTool {
			continue
		}
		if args, usesID, _, ok := s.fill(id, ""); ok && usesID {
			c.call(s.Name, args)
		}
	}
}

// byWords calls the best search tool.
func (c *chooser) byWords(words string, skip func(string) bool) bool {
	if words == "" {
		return false
	}
	best, rank := -1, 9
	for i, s := range c.tools {
		if _, usesID, usesWords, ok := s.fill("", words); ok && usesWords && !usesID && !skip(s.Name) {
			if r := s.rank(false, true); r < rank {
				best, rank = i, r
			}
		}
	}
	if best < 0 {
		return false
	}
	args, _, _, _ := c.tools[best].fill("", words)
	return c.call(c.tools[best].Name, args)
}

func none(string) bool { return false }

func (c *chooser) first(ps []part) {
	for _, p := range ps {
		for _, id := range p.ids {
			c.byID(id, p.text, none)
			c.recall(id)
			if p.ask == askList || p.ask == askHowMany {
				// A workflow shows the newest few; a list should be whole.
				for _, s := range c.tools {
					if args, usesID, _, ok := s.fill(id, ""); ok && usesID && p.noun != "" && strings.Contains(s.Name, p.noun) {
						c.call(s.Name, args)
					}
				}
			}
		}
		if wantsText(p) {
			c.byWords(strings.Join(p.words, " "), none)
		}
	}
}

// wantsText reports whether documents or tickets may hold the answer, rather than a record's fields.
func wantsText(p part) bool {
	switch p.ask {
	case askWhy, askHowLong, askGeneral:
		return true
	case askWhen, askHowMuch, askWho, askAttribute, askStatus, askList, askHowMany:
		return len(p.ids) == 0
	case askContents:
	}
	return false
}

// next follows up: the customer behind a record whose story is asked for, the next lower level
// where a tool failed, a wider search where nothing was found.
func (c *chooser) next(ps []part) {
	failed := map[string]bool{}
	for _, p := range c.req.Past {
		if p.Failed != "" {
			failed[p.Call.Tool] = true
		}
	}
	tried := func(tool string) bool {
		return slices.ContainsFunc(c.req.Past, func(p copilot.PastCall) bool { return p.Call.Tool == tool })
	}
	for _, p := range ps {
		for _, id := range p.ids {
			known := slices.ContainsFunc(c.req.Sources, func(s copilot.Source) bool { return s.Mentions(id) })
			if !known {
				if len(failed) > 0 {
					c.byID(id, p.text, func(t string) bool { return failed[t] })
				} else {
					c.byWords(id, none)
				}
				continue
			}
			if p.ask == askWhen && reArrival.MatchString(p.text) && !reNoParcel.MatchString(p.text) {
				for _, s := range c.req.Sources {
					if m := methodOf(s); m != "" && belongs(s, id) {
						c.byWords(m, none)
					}
				}
			}
			if p.ask == askWhy || p.ask == askWho || p.ask == askWhen || p.ask == askGeneral || p.ask == askAttribute {
				for _, s := range c.req.Sources {
					if s.ID == id && s.Kind != fact.Customer && len(s.Owners) == 1 {
						c.byID(s.Owners[0], p.text, func(t string) bool { return failed[t] })
					}
				}
			}
		}
		if !wantsText(p) && len(p.ids) > 0 {
			continue
		}
		empty := !slices.ContainsFunc(c.req.Past, func(x copilot.PastCall) bool {
			return len(x.Found) > 0 && strings.Contains(string(x.Call.Args), strings.Join(p.words, " "))
		})
		if empty && c.req.Round == 2 {
			if !c.byWords(strings.Join(p.words, " "), func(t string) bool { return failed[t] || tried(t) }) {
				for _, w := range p.words[:min(2, len(p.words))] {
					c.byWords(w, func(t string) bool { return failed[t] })
				}
			}
		}
	}
}
