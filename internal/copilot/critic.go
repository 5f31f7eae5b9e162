package copilot

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

var (
	// What a support answer must not promise by itself. A plain statement of what a policy says is not a promise.
	rePromise = regexp.MustCompile(`(?i)\b(?:we|i|our team|acme|support)(?:\s+will|'ll|\s+(?:can|are going to|am going to|promise to|guarantee))\b.{0,40}\b(?:refund|reimburse|credit|discount|waive|compensate|exception|replace)` +
		`|\byou(?:\s+will|'ll|\s+are going to)\s+(?:receive|get|be given|be refunded|have)\b.{0,40}\b(?:refund|credit|discount|compensation|voucher|replacement)` +
		`|\b(?:i|we)(?:'ve|\s+have)?\s+(?:approved|issued|granted)\b.{0,40}\b(?:refund|credit|discount|exception)|\bguarantee[sd]?\b`)
	reApproval = regexp.MustCompile(`(?i)\b(?:approv|needs? (?:a )?(?:person|human|manager)|subject to)`)
	reGreeting = regexp.MustCompile(`(?i)^\s*(?:hi|hello|hey|dear|greetings|good (?:morning|afternoon|evening)|thank you for)\b`)
)

// critique judges a checked draft: what code can tell comes first, then the model's opinion.
func (r *run) critique(ctx context.Context, sources []Source, scope Scope, checked Checked) Verdict {
	v := Verdict{Issues: []string{}, RevisionHints: []string{}}
	r.agent("critic", "checking the draft", func() string {
		v = r.judge(ctx, sources, scope, checked)
		if v.Approved {
			return "approve"
		}
		return "revise"
	})
	return v
}

func (r *run) judge(ctx context.Context, sources []Source, scope Scope, checked Checked) Verdict {
	v := Verdict{Issues: []string{}, RevisionHints: []string{}}
	issue := func(hint, format string, args ...any) {
		v.Issues = append(v.Issues, fmt.Sprintf(format, args...))
		if hint != "" && !slices.Contains(v.RevisionHints, hint) {
			v.RevisionHints = append(v.RevisionHints, hint)
		}
	}
	if !checked.Answered {
		switch {
		case r.retryable:
			issue("", "no answer, and a source could not be asked: the answer may exist")
		case len(checked.Sentences) > 0 && dropped(checked) > 0:
			issue("say only what a cited source says, one claim to a sentence, with its anchor", "no sentence of the draft about the question stood against its evidence")
		}
		v.Approved = len(v.Issues) == 0 // an honest "not in the sources"
		return v
	}
	for _, s := range checked.Sentences {
		if !s.Kept {
			issue("leave out or mend: "+clip(s.Sentence, 160)+" ("+s.Reason+")", "dropped: %s", s.Reason)
		}
	}
	if n := len(strings.Fields(fact.Anchors.ReplaceAllString(checked.Text, ""))); n > r.cfg.Words+20 {
		issue(fmt.Sprintf("use at most %d words", r.cfg.Words), "%d words, more than %d", n, r.cfg.Words)
	}
	blocking := false
	for _, s := range fact.Sentences(checked.Text) {
		if rePromise.MatchString(s) && !reApproval.MatchString(s) {
			blocking = true
			issue("promise nothing: say that it needs an approval", "promises something without an approval: %s", clip(s, 120))
		}
	}
	if reGreeting.MatchString(checked.Text) {
		issue("no greeting", "opens with a greeting")
	}
	for _, id := range scope.IDs {
		cited := slices.ContainsFunc(sources, func(s Source) bool { return slices.Contains(checked.Citations, s.Anchor) && s.Mentions(id) })
		if !cited && !strings.Contains(checked.Text, id) {
			blocking = true
			issue("say what the sources hold about "+id+", or that they hold nothing", "%s was asked about and is not addressed", id)
		}
	}
	// What was dropped is gone from the text, so it does not block; the revision may bring it back.
	if !r.afford(ctx) {
		issue("", "the critic's model was not asked: a budget ran out")
		return v
	}
	o, u, err := r.model.Critique(ctx, CritiqueRequest{
		Question: r.question, Plan: r.res.Plan, Sources: cited(sources, checked.Citations), Draft: checked.Text, MaxTokens: r.maxTokens(600),
	})
	r.spend(u, err)
	if err != nil {
		issue("", "the critic's model gave no verdict: %s", describe(err))
		return v
	}
	for _, s := range o.Issues {
		issue("", "%s", clip(s, 300))
	}
	for _, s := range o.Hints {
		v.RevisionHints = append(v.RevisionHints, clip(s, 300))
	}
	tooLong := slices.ContainsFunc(v.Issues, func(s string) bool { return strings.Contains(s, "words, more than") })
	v.Approved = o.Approve && !blocking && !tooLong && !reGreeting.MatchString(checked.Text)
	return v
}

func cited(sources []Source, anchors []string) []Source {
	return slices.DeleteFunc(slices.Clone(sources), func(s Source) bool { return !slices.Contains(anchors, s.Anchor) })
}
