package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

type auditCmd struct {
	Verify auditVerifyCmd `cmd:"" help:"Check the hash chain; names the first broken record."`
	Query  auditQueryCmd  `cmd:"" help:"Search the records."`
}

type auditVerifyCmd struct {
	Path         string `arg:"" optional:"" help:"Log file (default: the configured one)." type:"path"`
	MissingStart bool   `help:"Accept a log whose oldest files were archived."`
	MissingHead  bool   `help:"Accept a log without its head file, such as a copy; a cut end is then not seen."`
}

// Run verifies the log. Exit code 1 means that it is broken.
func (c auditVerifyCmd) Run(ctx context.Context, p *Program, g *globals) error {
	path, err := p.auditPath(g, c.Path)
	if err != nil {
		return err
	}
	var report app.AuditReport
	if c.Path == "" {
		report, err = app.VerifyConfigured(ctx, p.options(g), c.MissingStart, c.MissingHead)
	} else {
		report, err = app.VerifyAudit(ctx, path, c.MissingStart, c.MissingHead)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no audit log at %s: either nothing was called yet, or it was taken away", path)
	}
	if err != nil {
		return err
	}
	if g.JSON {
		if err := p.printJSON(struct {
			OK bool `json:"ok"`
			app.AuditReport
		}{report.OK(), report}); err != nil {
			return err
		}
	} else {
		p.printReport(path, report)
	}
	if !report.OK() {
		return no()
	}
	return nil
}

func (p *Program) printReport(path string, r app.AuditReport) {
	for _, torn := range r.Torn {
		p.printf("note: a broken end was set aside after a crash: %s\n", torn)
	}
	if r.OK() {
		p.printf("ok: %d records in %d files, up to record %d (%.16s…)\n", r.Records, r.Files, r.LastSeq, r.LastHash)
		return
	}
	p.printf("BROKEN: %s\n", path)
	for i, f := range r.Faults {
		label := "then "
		if i == 0 {
			label = "first"
		}
		p.printf("  %s  %s\n", label, f)
	}
	if r.Truncated {
		p.printf("  … and more\n")
	}
}

func (p *Program) auditPath(g *globals, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	o := p.options(g)
	return app.AuditPath(o)
}

type auditQueryCmd struct {
	Path    string        `help:"Log file (default: the configured one)." type:"path" placeholder:"FILE"`
	Tenant  string        `help:"Only this tenant." placeholder:"TENANT"`
	Caller  string        `help:"Only this subject." placeholder:"SUBJECT"`
	Tool    string        `help:"Only this tool." placeholder:"TOOL"`
	Status  string        `help:"Only this status: ok, error or denied." enum:"ok,error,denied," default:"" placeholder:"STATUS"`
	Code    string        `help:"Only this error code." placeholder:"CODE"`
	Kind    string        `help:"Only this kind: call, intent, list or admin." enum:"call,intent,list,admin," default:"" placeholder:"KIND"`
	Request string        `help:"Only this request and what it caused." placeholder:"ID"`
	Since   time.Duration `help:"Only the last while, such as 1h." placeholder:"DURATION"`
	Limit   int           `help:"At most the newest so many." default:"50" placeholder:"N"`
}

// Run prints the matching records, oldest first: a table, or JSON lines as they stand in the log.
func (c auditQueryCmd) Run(ctx context.Context, p *Program, g *globals) error {
	path, err := p.auditPath(g, c.Path)
	if err != nil {
		return err
	}
	f := app.AuditFilter{
		Tenant: atlas.TenantID(c.Tenant), Caller: c.Caller, Tool: c.Tool, Status: c.Status, Code: atlas.Code(c.Code),
		Kind: c.Kind, RequestID: c.Request, Limit: c.Limit,
	}
	if c.Since > 0 {
		f.Since = time.Now().Add(-c.Since)
	}
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	lines := json.NewEncoder(p.Stdout)
	if !g.JSON {
		fmt.Fprintln(w, "SEQ\tTIME\tTENANT\tCALLER\tWHAT\tSTATUS\tRULE\tCACHE\tMS\tREQUEST")
	}
	broken := false
	for r, err := range app.QueryAudit(ctx, path, f) {
		switch {
		case err != nil:
			broken = true
			p.notef("%s\n", err)
		case g.JSON:
			if err := lines.Encode(r); err != nil {
				return err
			}
		default:
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f\t%s\n", r.Seq, r.Time.Local().Format(time.DateTime), r.Tenant, r.Caller,
				what(r), outcome(r), r.Rule, r.Cache, float64(r.DurationUS)/1000, r.RequestID)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if broken {
		return no()
	}
	return nil
}

// what names what a record is about.
func what(r atlas.AuditRecord) string {
	switch r.Kind {
	case "list":
		return "(list)"
	case "admin":
		return strings.TrimSpace(r.Action + " " + r.Target)
	case "intent":
		return strings.TrimSpace(r.Tool+r.Action+" "+r.Target) + " (intent)"
	}
	return r.Tool
}

func outcome(r atlas.AuditRecord) string {
	if r.ErrorCode != "" {
		return string(r.ErrorCode)
	}
	return r.Status
}
