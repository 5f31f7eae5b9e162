// Package offline is the model that runs with no key and no network: a deterministic, extractive
// stand-in for all four roles of the copilot. It is no language model and says so. It knows nothing
// but the question and the evidence: it puts structured records into sentences, quotes the
// sentences of texts that answer best (word overlap weighted by rarity, and cue words for why, when,
// how long and how much), and says that something is not in the sources rather than guess.
package offline

import (
	"context"
	"strings"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

// Name is printed with every answer.
const Name = "offline (extractive, no language model)"

// Model is the offline model. The zero Model is ready for use and safe for concurrent use.
type Model struct{}

// New returns the offline model.
func New() *Model { return &Model{} }

// Name implements [copilot.Model].
func (*Model) Name() string { return Name }

// Plan implements [copilot.Model]: one need for each question in the text.
func (*Model) Plan(_ context.Context, req copilot.PlanRequest) ([]copilot.Need, copilot.Usage, error) {
	var needs []copilot.Need
	for i, p := range parts(req.Question, req.IDs) {
		needs = append(needs, copilot.Need{Description: p.describe(), Priority: min(i+1, 3)})
	}
	return needs, copilot.Usage{}, nil
}

func (p part) describe() string {
	what := map[ask]string{
		askGeneral: "what the documents say about", askWhy: "the reason for", askHowLong: "how long it takes:", askWhen: "the date of",
		askHowMuch: "the amount of", askHowMany: "the number of", askList: "the list of", askWho: "who:", askStatus: "the status of", askAttribute: "", askContents: "the items of",
	}[p.ask]
	return strings.Join(strings.Fields(what+" "+strings.Join(p.words, " ")+" "+p.noun+" "+strings.Join(p.ids, " ")), " ")
}

// Critique implements [copilot.Model]: it asks whether the draft holds the kind of fact that was
// asked for. What can be checked against the evidence, the code check has done before.
func (*Model) Critique(_ context.Context, req copilot.CritiqueRequest) (copilot.Opinion, copilot.Usage, error) {
	o := copilot.Opinion{Approve: true}
	facts := map[fact.Kind]bool{}
	duration := false
	for _, s := range fact.Sentences(req.Draft) {
		for _, f := range fact.Of(s) {
			facts[f.Kind] = true
			duration = duration || f.Kind == fact.KindNumber && strings.Contains(f.Value, " ")
		}
	}
	lacks := func(missing bool, what string) {
		if missing && !strings.Contains(req.Draft, rest) {
			o.Approve = false
			o.Issues = append(o.Issues, "the question asks for "+what+", and the draft has none")
			o.Hints = append(o.Hints, "give "+what+", or say that the sources do not hold it")
		}
	}
	for _, p := range parts(req.Question, req.Plan.IDs) {
		lacks(p.ask == askHowLong && !duration && !facts[fact.KindDate], "a duration")
		lacks(p.ask == askWhen && !facts[fact.KindDate] && !duration, "a date")
		lacks(p.ask == askHowMuch && !facts[fact.KindAmount] && !facts[fact.KindNumber], "an amount")
		lacks(p.ask == askHowMany && !facts[fact.KindNumber], "a number")
	}
	return o, copilot.Usage{}, nil
}
