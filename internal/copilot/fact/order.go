package fact

import (
	"regexp"
	"strings"
)

var (
	// Orders to whoever reads, in any source.
	reOverride = regexp.MustCompile(`(?i)\b(?:ignore|disregard|forget|override|bypass|skip)\b.{0,60}\b(?:instructions?|rules?|prompts?|polic(?:y|ies)|guidelines?|context|above|previous|prior|earlier|restrictions?|check)\b` +
		`|\b(?:system|developer)\s+(?:prompt|message|override|instructions?|note)\b` +
		`|\byou\s+are\s+now\b|\bfrom\s+now\s+on\b|\bnew\s+instructions?\b|\bpretend\s+(?:to|that|you)\b|\bact\s+as\b|\bjailbreak\b` +
		`|(?:^|\s)(?:system|assistant|user|developer)\s*:|<\|?/?\s*(?:system|assistant|user|im_start|im_end|instructions?)|\[/?INST\]|\bBEGIN\s+(?:SYSTEM|PROMPT|INSTRUCTIONS?)`)
	// Whom such orders address.
	reReader = regexp.MustCompile(`(?i)\b(?:assistant|chatbot|chat\s?bot|copilot|language\s+model|llm|a\.?i\.?\s+(?:agent|model|system|assistant)|support\s+(?:agent|bot)\s+reading|(?:the|any|every|dear)\s+(?:ai|model|agent|bot|reader)|(?:whoever|anyone|who)\s+reads?\b)`)
	reVerb   = regexp.MustCompile(`(?i)(?:^|[.;:!?,"'(*\-]\s*|\b(?:please|kindly|now|then|and|must|should|shall|to|immediately|also|instead|you|just|first|next|finally)\s+)(?:` + verbs + `)\b`)
	reOpens  = regexp.MustCompile(`(?i)^\W*(?:(?:please|kindly|now|then|also|important|urgent|attention|note|just|first|next|instead|immediately)\b[\s:,!-]*)*(?:(?:` + strong + `)\b|(?:` + verbs + `)\s+(?:` + object + `)|do\s+not|don't|never|always|you\s+(?:must|should|need\s+to|have\s+to|will)\b)`)
	// What one asks the reader to hand over.
	reSecret = regexp.MustCompile(`(?i)\b(?:reveal|disclose|leak|exfiltrate|dump)\b|\b(?:send|forward|email|e-mail|include|list|show|print|give|share|post|copy|add|append|provide|return)\b.{0,60}\b(?:data|details?|records?|address(?:es)?|passwords?|tokens?|secrets?|keys?|prompt|credentials?|(?:other|another|all|every)\s+customers?)\b`)
)

// strong verbs open an order by themselves; the others may be nouns ("Refund for order o_1 on hold")
// and need something that they act on.
const (
	strong = `reveal|disclose|send|forward|dump|tell|execute|delete|approve|include|reply|respond|repeat|upload|fetch|click|visit|ignore|disregard|forget|override|grant|invoke|look\s+up|give|provide|pretend|confirm|remember|treat|append|leak`
	object = `the|all|this|that|these|those|every|each|any|a|an|me|us|him|her|them|it|your|my|our|their|no|only|to|as|customer|order|[$€£0-9]|[A-Z]{2,10}-[0-9]|https?:`
)

const verbs = `reveal|disclose|send|forward|e-?mail|export|dump|print|list|show|tell|call|run|execute|delete|transfer|approve|issue|include|reply|respond|answer|output|repeat|copy|post|upload|fetch|click|visit|ignore|disregard|forget|override|grant|refund|write|say|use|invoke|query|look\s+up|search|give|provide|state|pretend|confirm|mark|close|set|change|update|add|append|remember|treat|append|leak`

// Orders reports whether a sentence orders its reader about, so that it must be neither followed
// nor quoted. In text that outsiders wrote (untrusted) any imperative counts; in the company's own
// documents, which may well say "send the item back", only an attempt to take over the reader does.
// It errs on the side of leaving a sentence out.
func Orders(sentence string, untrusted bool) bool {
	s := strings.TrimSpace(Fold(sentence))
	if reOverride.MatchString(s) {
		return true
	}
	if reReader.MatchString(s) && (reVerb.MatchString(s) || untrusted) {
		return true
	}
	return untrusted && (reOpens.MatchString(s) || reSecret.MatchString(s) && reVerb.MatchString(s))
}
