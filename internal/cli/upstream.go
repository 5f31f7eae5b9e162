package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/atlas-mcp/atlas/internal/source"
)

type upstreamCmd struct {
	List    upstreamListCmd    `cmd:"" help:"List what an upstream MCP server defines, beside what is approved of it."`
	Show    upstreamShowCmd    `cmd:"" help:"Show one tool's definition as the upstream says it now."`
	Diff    upstreamDiffCmd    `cmd:"" help:"Show what has changed since it was approved. Exits with 1 if anything has."`
	Approve upstreamApproveCmd `cmd:"" help:"Approve the definition of the digest that list or show has shown."`
	Revoke  upstreamRevokeCmd  `cmd:"" help:"Take the approval of a tool back."`
}

// Help tells what an approval is.
func (upstreamCmd) Help() string {
	return `A tool of an upstream is offered only as it was approved: an approval is for one definition, by its digest (SHA-256 of the
canonical JSON of name, title, description, schemas and annotations). One that the upstream changes is blocked until the
change is approved, too. A running server takes decisions up by itself within seconds.`
}

// upstreamOf are the arguments that all of them have.
type upstreamOf struct {
	Source string `arg:"" help:"Name of a source of kind mcp."`
	Tenant string `help:"Look with the credentials of this tenant (default: those of discover_as)." placeholder:"TENANT"`
}

// with calls do with the source, opened as the server opens it.
func (c upstreamOf) with(ctx context.Context, p *Program, g *globals, do func(source.Reviewer) error) error {
	a, err := p.open(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	r, err := a.Upstream(c.Source)
	if err != nil {
		return usage("%v", err)
	}
	return do(r)
}

// review calls do with the review, and with those of its tools that are asked for.
func (c upstreamOf) review(ctx context.Context, p *Program, g *globals, tool string, do func(source.Reviewer, source.Review) error) error {
	return c.with(ctx, p, g, func(r source.Reviewer) error {
		review, err := r.Review(ctx, c.Tenant)
		if err != nil {
			return err
		}
		if tool != "" {
			review.Tools = slices.DeleteFunc(review.Tools, func(t source.Reviewed) bool { return t.Name != tool })
			if len(review.Tools) == 0 && review.Down == "" {
				return usage("the upstream has no tool %q, and none is approved", tool)
			}
		}
		if review.Tools == nil {
			review.Tools = []source.Reviewed{}
		}
		if review.Down != "" {
			p.notef("the upstream does not answer: %s\n", visible(review.Down))
		}
		return do(r, review)
	})
}

type upstreamListCmd struct{ upstreamOf }

// Run lists.
func (c upstreamListCmd) Run(ctx context.Context, p *Program, g *globals) error {
	return c.review(ctx, p, g, "", func(_ source.Reviewer, r source.Review) error {
		if g.JSON {
			return p.printJSON(struct {
				source.Review
				Digest string `json:"digest,omitempty"`
			}{r, digestOfAll(r)})
		}
		if len(r.Tools) == 0 {
			p.printf("no tools\n")
			return nil
		}
		w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TOOL\tSTATE\tOFFERED AS\tDEFINITION\tAPPROVED BY")
		for _, t := range r.Tools {
			digest := t.LiveDigest
			if digest == "" {
				digest = t.Digest
			}
			by := ""
			if t.Digest != "" {
				by = t.By
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%.12s\t%s\n", visible(t.Name), t.State, c.Source+"__"+source.OfferName(t.Name), digest, visible(by))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, t := range r.Tools {
			p.warnings(t)
		}
		if all := digestOfAll(r); all != "" {
			p.printf("\nlook at them with: atlas upstream show %s TOOL\napprove all that wait and have no warning with: atlas upstream approve %s --digest %s\n", c.Source, c.Source, all)
		}
		return nil
	})
}

// warnings prints what a person should look at.
func (p *Program) warnings(t source.Reviewed) {
	if t.Problem != "" {
		p.printf("\n%s cannot be offered: %s\n", visible(t.Name), visible(strings.ReplaceAll(t.Problem, "\n", "; ")))
	}
	if len(t.Warnings) > 0 {
		p.printf("\n%s, look at:\n", visible(t.Name))
	}
	for _, w := range t.Warnings {
		p.printf("  - %s\n", visible(w))
	}
}

// open reports whether a tool waits for a decision that an approval can be.
func open(t source.Reviewed) bool {
	return t.Problem == "" && (t.State == source.ReviewWaiting || t.State == source.ReviewChanged)
}

// all returns the tools that can be approved together: those with a warning are looked at one by one.
func all(r source.Review) []source.Reviewed {
	return slices.DeleteFunc(slices.Clone(r.Tools), func(t source.Reviewed) bool { return !open(t) || len(t.Warnings) > 0 })
}

// digestOfAll is what an approval of all is bound to; empty if there is nothing to approve.
func digestOfAll(r source.Review) string {
	h := sha256.New()
	tools := all(r)
	if len(tools) == 0 {
		return ""
	}
	for _, t := range tools {
		fmt.Fprintf(h, "%q %s\n", t.Name, t.LiveDigest)
	}
	return hex.EncodeToString(h.Sum(nil))
}

type upstreamShowCmd struct {
	upstreamOf
	Tool string `arg:"" help:"The upstream's name of the tool."`
}

// Run shows.
func (c upstreamShowCmd) Run(ctx context.Context, p *Program, g *globals) error {
	return c.review(ctx, p, g, c.Tool, func(_ source.Reviewer, r source.Review) error {
		if g.JSON {
			return p.printJSON(r)
		}
		for _, t := range r.Tools {
			p.printf("%s: %s\n", visible(t.Name), t.State)
			switch {
			case len(t.Live) > 0:
				p.printf("%s\n", pretty(t.Live))
			case len(t.Approved) > 0:
				p.printf("as it was approved by %s:\n%s\n", visible(t.By), pretty(t.Approved))
			}
			p.warnings(t)
			if open(t) {
				p.printf("\napprove this definition with: atlas upstream approve %s %s --digest %s\n", c.Source, quoted(t.Name), t.LiveDigest)
			}
		}
		return nil
	})
}

type upstreamDiffCmd struct {
	upstreamOf
	Tool string `arg:"" optional:"" help:"The upstream's name of the tool; default: all that differ."`
}

// Run compares.
func (c upstreamDiffCmd) Run(ctx context.Context, p *Program, g *globals) error {
	return c.review(ctx, p, g, c.Tool, func(_ source.Reviewer, r source.Review) error {
		r.Tools = slices.DeleteFunc(r.Tools, func(t source.Reviewed) bool {
			return t.State == source.ReviewApproved || t.State == source.ReviewUnknown
		})
		switch {
		case g.JSON:
			if err := p.printJSON(r); err != nil {
				return err
			}
		default:
			p.differences(c.Source, r)
		}
		if len(r.Tools) > 0 {
			return no()
		}
		return nil
	})
}

func (p *Program) differences(from string, r source.Review) {
	if len(r.Tools) == 0 {
		p.printf("nothing differs from what is approved\n")
	}
	for _, t := range r.Tools {
		p.printf("%s: %s\n", visible(t.Name), t.State)
		for _, line := range diff(lines(t.Approved), lines(t.Live)) {
			p.printf("%s\n", line)
		}
		p.warnings(t)
		if open(t) {
			p.printf("\napprove this definition with: atlas upstream approve %s %s --digest %s\n", from, quoted(t.Name), t.LiveDigest)
		}
	}
}

type upstreamApproveCmd struct {
	upstreamOf
	Tool   string `arg:"" optional:"" help:"The upstream's name of the tool; default: all that list has shown as waiting or changed, without a warning."`
	Digest string `required:"" help:"Digest of what was shown: 64 hexadecimal digits." placeholder:"HEX"`
	By     string `help:"Who approves; recorded (default: the user of this machine)." placeholder:"NAME"`
}

// Run approves.
func (c upstreamApproveCmd) Run(ctx context.Context, p *Program, g *globals) error {
	by, err := p.who(c.By)
	if err != nil {
		return err
	}
	if _, err := hex.DecodeString(c.Digest); err != nil || len(c.Digest) != 64 {
		return usage("--digest must be the 64 hexadecimal digits that atlas upstream list or show prints")
	}
	return c.review(ctx, p, g, c.Tool, func(up source.Reviewer, r source.Review) error {
		tools := r.Tools
		if c.Tool == "" {
			if digestOfAll(r) != c.Digest {
				return usage("what the upstream defines is not what this digest is of; look at it again with atlas upstream list %s", c.Source)
			}
			tools = all(r)
		}
		for _, t := range tools {
			digest := c.Digest
			if c.Tool == "" {
				digest = t.LiveDigest
			}
			if err := up.Approve(ctx, c.Tenant, t.Name, digest, by); err != nil {
				return err
			}
			if !g.JSON {
				p.printf("approved by %s: %s (%.12s)\n", visible(by), visible(t.Name), digest)
			}
		}
		if !g.JSON {
			return nil
		}
		after, err := up.Review(ctx, c.Tenant)
		if err != nil {
			return err
		}
		return p.printJSON(after)
	})
}

type upstreamRevokeCmd struct {
	upstreamOf
	Tool string `arg:"" help:"The upstream's name of the tool."`
	By   string `help:"Who takes it back; recorded (default: the user of this machine)." placeholder:"NAME"`
}

// Run revokes.
func (c upstreamRevokeCmd) Run(ctx context.Context, p *Program, g *globals) error {
	by, err := p.who(c.By)
	if err != nil {
		return err
	}
	return c.with(ctx, p, g, func(up source.Reviewer) error {
		if err := up.Revoke(ctx, c.Tool, by); err != nil {
			return err
		}
		if g.JSON {
			return p.printJSON(map[string]string{"revoked": c.Tool, "by": by})
		}
		p.printf("taken back by %s: %s\n", visible(by), visible(c.Tool))
		return nil
	})
}

// who names the person at the terminal.
func (p *Program) who(said string) (string, error) {
	if said == "" {
		said, _ = p.Env("USER")
	}
	if said == "" || len(said) > 200 || said != visible(said) {
		return "", usage("say with --by who decides")
	}
	return said, nil
}

// visible shows the characters that a terminal would obey or a person would not see. What an upstream
// wrote is never printed otherwise.
func visible(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar && !unicode.Is(unicode.Variation_Selector, r) {
			b.WriteRune(r)
			continue
		}
		fmt.Fprintf(&b, `\u{%04X}`, r)
	}
	return b.String()
}

// quoted is a name as a shell takes it.
func quoted(s string) string {
	if s = visible(s); strings.ContainsFunc(s, func(r rune) bool {
		return !(r == '_' || r == '-' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// lines is a definition for people, line by line; texts of several lines stay on one.
func lines(definition json.RawMessage) []string {
	if len(definition) == 0 {
		return nil
	}
	var b bytes.Buffer
	if err := json.Indent(&b, definition, "", "  "); err != nil {
		return []string{visible(string(definition))}
	}
	out := strings.Split(b.String(), "\n")
	for i := range out {
		out[i] = visible(out[i])
	}
	return out
}

func pretty(definition json.RawMessage) string { return strings.Join(lines(definition), "\n") }

// maxDiff bounds the lines that are compared; longer definitions are shown one after the other.
const maxDiff = 2000

// diff returns the lines of both, marked as diff(1) does: '-' for what only a has, '+' for what only b
// has.
func diff(a, b []string) []string {
	var out []string
	mark := func(m string, ls ...string) {
		for _, l := range ls {
			out = append(out, m+" "+l)
		}
	}
	if len(a) > maxDiff || len(b) > maxDiff {
		mark("-", a...)
		mark("+", b...)
		return out
	}
	// common[i][j] is the length of the longest common subsequence of a[i:] and b[j:].
	common := make([][]int32, len(a)+1)
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i, line := range slices.Backward(a) {
		for j, other := range slices.Backward(b) {
			if line == other {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			mark(" ", a[i])
			i++
			j++
		case common[i+1][j] >= common[i][j+1]:
			mark("-", a[i])
			i++
		default:
			mark("+", b[j])
			j++
		}
	}
	mark("-", a[i:]...)
	mark("+", b[j:]...)
	return out
}
