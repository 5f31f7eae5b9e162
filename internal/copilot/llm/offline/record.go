package offline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

func title(kind string) string {
	if kind == "" {
		return "Record"
	}
	return strings.ToUpper(kind[:1]) + strings.ReplaceAll(kind[1:], "_", " ")
}

// recordSentence puts a record's fields into one sentence with its anchor.
func recordSentence(s copilot.Source) string {
	switch s.Kind {
	case fact.Customer:
		return customerSentence(s)
	case fact.Ticket:
		return ticketSentence(s)
	}
	if status, ok := s.Field("status", "state"); ok {
		return statusSentence(s, status)
	}
	return fieldsSentence(s)
}

// statusSentence tells a record with a status, such as an order. A status such as refund_pending
// speaks of something that the record has, and is told so: the refund is pending.
func statusSentence(s copilot.Source, status string) string {
	name := strings.ToLower(title(s.Kind)) + " " + s.ID
	amount := ""
	if minor, cur, ok := s.Amount(); ok {
		amount = copilot.Money(minor, cur)
	}
	of := ""
	if len(s.Owners) == 1 && s.Owners[0] != s.ID {
		of = " of " + s.Owners[0]
	}
	when := ""
	if v, ok := s.Field("created_at", "ordered_at", "date"); ok {
		if d := dateOf(v); d != "" {
			when = ", created on " + d
		}
	}
	words := strings.Split(status, "_")
	if last := words[len(words)-1]; len(words) > 1 && fact.IsStatus(last) && !fact.IsStatus(words[0]) {
		matter := strings.Join(words[:len(words)-1], " ")
		if amount != "" {
			matter += " of " + amount
		}
		return fmt.Sprintf("The %s on %s%s is %s [%s].", matter, name, of, last, s.Anchor)
	}
	if amount != "" {
		amount = ": " + amount
	}
	return fmt.Sprintf("%s %s%s is %s%s%s [%s].", title(s.Kind), s.ID, of, strings.Join(words, " "), amount, when, s.Anchor)
}

func customerSentence(s copilot.Source) string {
	name, ok := s.Field("name", "title")
	if !ok {
		return fieldsSentence(s)
	}
	extra := ""
	if v, ok := s.Field("email"); ok {
		extra = " (" + v + ")"
	}
	if v, ok := s.Field("tier"); ok {
		extra += ", tier " + v
	}
	return fmt.Sprintf("Customer %s is %s%s [%s].", s.ID, name, extra, s.Anchor)
}

func ticketSentence(s copilot.Source) string {
	text := "Ticket " + s.ID
	if v, ok := s.Field("status"); ok {
		text += " is " + strings.ReplaceAll(v, "_", " ")
	} else {
		text += " is on record"
	}
	if v, ok := s.Field("priority"); ok {
		text += ", priority " + v
	}
	if s.Title != "" {
		text += ": " + strings.TrimRight(s.Title, ".!? ")
	}
	return text + " [" + s.Anchor + "]."
}

// fieldsSentence lists the fields of a record of a kind that is not known, as a user's own tool may
// return.
func fieldsSentence(s copilot.Source) string {
	var parts []string
	for _, f := range s.Fields {
		if f.Name == "id" || slices.Contains([]string{"customer_id"}, f.Name) && len(s.Fields) > 2 {
			continue
		}
		v := strings.ReplaceAll(f.Value, "_", " ")
		if d := dateOf(f.Value); d != "" {
			v = d
		}
		if parts = append(parts, strings.ReplaceAll(f.Name, "_", " ")+" "+v); len(parts) == 6 {
			break
		}
	}
	if len(parts) == 0 {
		return fmt.Sprintf("%s %s is on record [%s].", title(s.Kind), s.ID, s.Anchor)
	}
	return fmt.Sprintf("%s: %s [%s].", strings.TrimSpace(title(s.Kind)+" "+s.ID), strings.Join(parts, ", "), s.Anchor)
}
