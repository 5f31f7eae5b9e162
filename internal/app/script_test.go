package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

const (
	scriptConfig = `
demo_data: false
roles:
  tester: ["tool:probe:read", "tool:probe:write"]
  reader: ["tool:probe:read"]
  outsider: []
  approver: ["approval:*:decide"]
sources: {}
tools: {files: []}
policy: {file: policy.yaml}
retry: {base_delay: 1ms}
`
	scriptPolicy = `
rules:
  - id: probes
    subjects: ["role:tester", "role:reader"]
    actions: ["tool:probe:*"]
    resources: ["tenant:*/probe/*"]
  - id: no-forbidden-word
    subjects: ["*"]
    actions: ["tool:probe:read"]
    resources: ["tenant:*/probe/probe_echo"]
    effect: deny
    when: context.args has text && context.args.text == "forbidden"
`
)

// A script is a txtar file: prose, settings laid over scriptConfig, and lines such as
//
//	as tester@acme              who calls from here on: role@tenant
//	call TOOL {"text":"x"}      one call; what follows looks at its outcome
//	times 5 call TOOL {}        the same call several times; the last outcome counts
//	list
//	lookup TOOL {"text":"x"}    one call in the course of a list, such as a template's documents
//	ok | fail CODE
//	contains TEXT | lacks TEXT  of the answer, or of the failure as callers see it
//	ran TOOL N                  how often the tool itself has run so far
//	audited FIELD=VALUE …       the newest record of the audit log
//	metric LINE                 a line of /metrics
//	approve                     the approval that the last failure names, as approver@ the same tenant
//	key K                       idempotency key of the calls that follow
//	client elicit               the client can be asked from here on
//	asked                       the answer is a question to the client
//	reply {"text":"x"}          the last call again, with that as the client's answer
//	next                        the last call again, with the cursor that it gave
type script struct {
	t      *testing.T
	app    *app.App
	probes *probes
	audit  string

	who  *atlas.Principal
	key  string
	can  atlas.Client
	last atlas.Call
	res  atlas.Result
	err  error
}

// openScript opens an app for a script, with some stages off.
func openScript(t *testing.T, ar *txtar.Archive, off ...string) *script {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{"atlas.yaml": []byte(scriptConfig), "policy.yaml": []byte(scriptPolicy)}
	var overlay []byte
	for _, f := range ar.Files {
		if f.Name == "config.yaml" {
			overlay = f.Data
		} else {
			files[f.Name] = f.Data
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &script{t: t, probes: newProbes(), audit: filepath.Join(dir, "data", "audit", "audit.jsonl")}
	var err error
	s.app, err = app.Open(t.Context(), app.Options{
		ConfigFile: filepath.Join(dir, "atlas.yaml"), DataDir: filepath.Join(dir, "data"), Overlay: overlay,
		ExtraTools: s.probes.tools, EditStages: app.Without(off...), LogLevel: "error", LogTo: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.app.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// run runs the lines and returns the first that does not hold.
func (s *script) run(lines string) error {
	for i, line := range strings.Split(lines, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := s.line(line); err != nil {
			return fmt.Errorf("line %d: %s: %w", i+1, line, err)
		}
	}
	return nil
}

func (s *script) line(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "as":
		return s.as(rest)
	case "call":
		name, args, _ := strings.Cut(rest, " ")
		s.call(name, args)
	case "times":
		n, command, _ := strings.Cut(rest, " ")
		count, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		for range count {
			if err := s.line(command); err != nil {
				return err
			}
		}
	case "list":
		s.do(func(ctx context.Context) (atlas.Result, error) { return s.app.List(ctx, s.who) })
	case "client":
		s.can.Elicit = rest == "elicit"
	case "reply":
		if s.res.Ask == nil {
			return errors.New("nothing was asked")
		}
		s.last.Reply = &atlas.Reply{Answers: map[string]json.RawMessage{"q": json.RawMessage(rest)}, State: s.res.Ask.State}
		s.do(func(ctx context.Context) (atlas.Result, error) { return s.app.Handle(ctx, s.last) })
	case "lookup":
		name, args, _ := strings.Cut(rest, " ")
		s.lookup(name, args)
	case "key":
		s.key = rest
	case "next":
		var args map[string]any
		if err := json.Unmarshal([]byte(cmpOr(string(s.last.Args.Raw), "{}")), &args); err != nil {
			return err
		}
		args["cursor"] = s.res.NextCursor
		raw, err := json.Marshal(args)
		if err != nil {
			return err
		}
		s.call(s.last.Name, string(raw))
	case "approve":
		id, _ := atlas.ErrorOf(s.err).Context["approval_id"].(string)
		lead, err := s.app.Principal("lead", s.who.Tenant, []string{"approver"})
		if err != nil {
			return err
		}
		_, err = s.app.Approvals().Approve(s.t.Context(), *lead, id, "test")
		return err
	default:
		return s.expect(word, rest)
	}
	return nil
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func (s *script) as(who string) error {
	role, tenant, _ := strings.Cut(who, "@")
	var err error
	s.who, err = s.app.Principal(role, atlas.TenantID(tenant), []string{role})
	return err
}

func (s *script) call(name, args string) {
	call := s.app.NewCall(s.who, name, []byte(args))
	call.IdempotencyKey, call.Client = s.key, s.can
	s.last = call
	s.do(func(ctx context.Context) (atlas.Result, error) { return s.app.Handle(ctx, call) })
}

// lookup makes a call as the List and Complete of a tool do: a child of the caller's list.
func (s *script) lookup(name, args string) {
	list := s.app.NewCall(s.who, "", nil)
	list.Op = atlas.OpList
	s.last = list.Child("req_lookup", name, json.RawMessage(args))
	s.do(func(ctx context.Context) (atlas.Result, error) { return s.app.Handle(ctx, s.last) })
}

// do runs a call as the edge does, except that a panic, which the telemetry stage must stop, becomes
// a plain error here.
func (s *script) do(f func(context.Context) (atlas.Result, error)) {
	defer func() {
		if v := recover(); v != nil {
			s.err = fmt.Errorf("panic: %v", v)
		}
	}()
	s.res, s.err = f(s.t.Context())
}

// text is what a caller would see.
func (s *script) text() string {
	if s.err != nil {
		data, err := json.Marshal(atlas.ErrorOf(s.err).Failure(s.last.ID))
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
	if s.res.Tools != nil {
		var names []string
		for _, t := range s.res.Tools {
			names = append(names, t.Name)
		}
		return strings.Join(names, " ")
	}
	return string(s.res.Structured)
}

func (s *script) expect(word, rest string) error {
	switch word {
	case "ok":
		return s.err
	case "asked":
		if s.err != nil || s.res.Ask == nil {
			return fmt.Errorf("got %s, %v", s.text(), s.err) //nolint:errorlint // shown, not inspected; it may be nil
		}
	case "fail":
		if got := atlas.CodeOf(s.err); string(got) != rest || isPanic(s.err) {
			return fmt.Errorf("got %q (%v)", got, s.err) //nolint:errorlint // shown, not inspected; it may be nil
		}
	case "contains":
		if !strings.Contains(s.text(), rest) {
			return fmt.Errorf("got %s", s.text())
		}
	case "lacks":
		if strings.Contains(s.text(), rest) {
			return fmt.Errorf("got %s", s.text())
		}
	case "ran":
		name, n, _ := strings.Cut(rest, " ")
		if got := strconv.Itoa(s.probes.count(name)); got != n {
			return fmt.Errorf("ran %s times", got)
		}
	case "audited":
		return s.audited(strings.Fields(rest))
	case "metric":
		rec := httptest.NewRecorder()
		s.app.Metrics().Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if !slices.Contains(strings.Split(rec.Body.String(), "\n"), rest) {
			return fmt.Errorf("no such line among:\n%s", grep(rec.Body.String(), strings.SplitN(rest, "{", 2)[0]))
		}
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return nil
}

func isPanic(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "panic:") }

func grep(text, want string) string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, want) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// audited checks fields of the newest record.
func (s *script) audited(fields []string) error {
	if err := s.app.FlushAudit(s.t.Context()); err != nil {
		return err
	}
	var newest atlas.AuditRecord
	for r, err := range app.QueryAudit(s.t.Context(), s.audit, app.AuditFilter{Limit: 1}) {
		if err != nil {
			return err
		}
		newest = r
	}
	data, err := json.Marshal(newest)
	if err != nil {
		return err
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		return err
	}
	for _, f := range fields {
		name, want, _ := strings.Cut(f, "=")
		if v := fmt.Sprint(got[name]); v != want {
			return fmt.Errorf("%s is %q in %s", name, v, data)
		}
	}
	return nil
}

func readScript(t *testing.T, path string) (*txtar.Archive, string) {
	t.Helper()
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range ar.Files {
		if f.Name == "script" {
			ar.Files = slices.Delete(ar.Files, i, i+1)
			return ar, string(f.Data)
		}
	}
	t.Fatalf("%s has no script", path)
	return nil, ""
}

// Every stage has a script of what it promises. The script holds with the whole pipeline, and stops
// holding when the stage is taken off: so no stage can silently fall off the path of a call.
func TestEveryStageIsMissedWhenTakenOff(t *testing.T) {
	for _, name := range app.StageNames() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ar, lines := readScript(t, filepath.Join("testdata", "stages", name+".txtar"))
			if len(bytes.TrimSpace(ar.Comment)) == 0 {
				t.Error("the script does not say what it shows")
			}
			if err := openScript(t, ar).run(lines); err != nil {
				t.Fatalf("with every stage on: %v", err)
			}
			err := openScript(t, ar, name).run(lines)
			if err == nil {
				t.Errorf("the script also holds without %s: it proves nothing", name)
			}
			t.Logf("without %s: %v", name, err)
		})
	}
	found, err := filepath.Glob(filepath.Join("testdata", "stages", "*.txtar"))
	if err != nil || len(found) != len(app.StageNames()) {
		t.Errorf("%d scripts for %d stages (%v)", len(found), len(app.StageNames()), err)
	}
}

// The order of the stages is behaviour, too.
func TestPipelineOrder(t *testing.T) {
	found, err := filepath.Glob(filepath.Join("testdata", "order", "*.txtar"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range found {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			ar, lines := readScript(t, path)
			if err := openScript(t, ar).run(lines); err != nil {
				t.Error(err)
			}
		})
	}
}

// Two tenants at once never see each other's answers, through cache, limiter or anything else.
func TestTenantsAtOnce(t *testing.T) {
	s := openScript(t, &txtar.Archive{Files: []txtar.File{{Name: "config.yaml", Data: []byte("flood: {rate: 1000000, per: 1m, burst: 100000}\nratelimit: {caller: {rate: 100000, per: 1m, burst: 100000}, tool: {rate: 100000, per: 1m, burst: 100000}, tenant: {rate: 100000, per: 1m, burst: 100000}}\n")}}})
	var wg sync.WaitGroup
	for _, tenant := range []atlas.TenantID{"acme", "globex"} {
		who, err := s.app.Principal("tester", tenant, []string{"tester"})
		if err != nil {
			t.Fatal(err)
		}
		for range 16 {
			wg.Go(func() {
				for range 25 {
					res, err := s.app.Handle(t.Context(), s.app.NewCall(who, "probe_echo", []byte(`{"text":"same"}`)))
					if want := `"tenant":"` + string(tenant) + `"`; err != nil || !strings.Contains(string(res.Structured), want) {
						t.Errorf("%s got %s, %v", tenant, res.Structured, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

// A closed app refuses, and closing waits for what runs.
func TestCloseWaitsAndRefuses(t *testing.T) {
	s := openScript(t, &txtar.Archive{})
	if err := s.as("tester@acme"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := s.app.Handle(t.Context(), s.app.NewCall(s.who, "probe_echo", nil))
			if code := atlas.CodeOf(err); code != "" && code != atlas.CodeShuttingDown {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := s.app.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := s.app.Handle(t.Context(), s.app.NewCall(s.who, "probe_echo", nil)); atlas.CodeOf(err) != atlas.CodeShuttingDown {
		t.Errorf("got %v", err)
	}
}
