package tool

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A workflow runs steps, each one call of a tool of a lower level. Steps that use nothing of each
// other run at the same time.
type workflow struct {
	children
	steps []step
	echo  []string // arguments that are repeated in the answer
}

// A step is one call of a workflow.
type step struct {
	id       string
	tool     string
	args     shape
	pick     []string // path of the part of the child's answer that is kept; empty for all of it
	optional bool     // a failure becomes a partial error
	after    []int    // steps whose answers the arguments use
	refs     []string // those references, "step.path"
}

// stepsBody makes a workflow.
func (b *builder) stepsBody(s *spec) *definition {
	items, ok := s.bodyValue.items("steps")
	if !ok {
		return nil
	}
	if len(items) == 0 || len(items) > maxSteps {
		s.bodyValue.errorf("steps: a workflow has 1 to %d steps, this one has %d", maxSteps, len(items))
		return nil
	}
	w := workflow{children: b.children(), echo: s.echo}
	index := map[string]int{}
	argNodes := make([]node, len(items))
	kids := make([]*definition, 0, len(items))
	outputs := schema{}
	var required []string
	for _, name := range s.echo { // an argument that may be left out may be missing from the answer too
		if _, fallback := s.properties[name]["default"]; fallback || slices.Contains(s.needed, name) {
			required = append(required, name)
		}
	}
	before := len(b.errs)
	for i, n := range items {
		st := step{args: shape{kind: 'f'}}
		var pick string
		found := n.into(map[string]any{
			"id": &st.id, "tool": &st.tool, "args": &argNodes[i], "pick": &pick, "optional": &st.optional,
		})
		_, echoed := index[st.id]
		switch {
		case !toolName.MatchString(st.id):
			n.errorf("id: %q is not the name of a step; use a-z, 0-9 and _", st.id)
		case echoed:
			n.errorf("id: step %q is there twice", st.id)
		case st.id == "partial_errors" || st.id == "incomplete" || slices.Contains(s.echo, st.id) || s.properties[st.id] != nil:
			n.errorf("id: %q is taken by an input or a field of the answer; choose another", st.id)
		}
		index[st.id] = i
		if pick != "" {
			st.pick = strings.Split(pick, ".")
		}
		if argNodes[i].ast != nil {
			if st.args = argNodes[i].shape("args"); st.args.kind != 'f' {
				argNodes[i].errorf("args: must be a mapping (argument: value)")
			}
		}
		w.steps = append(w.steps, st)
		if st.tool == "" {
			n.errorf("tool: is missing; name the tool that step %s calls", st.id)
			continue
		}
		kid, ok := b.child(s, found["tool"], st.tool)
		if !ok {
			continue
		}
		kids = append(kids, kid)
		checkArgs(kid, st.args, n, argNodes[i])
		part, ok := partOf(kid.tool.Output, st.pick)
		if !ok {
			found["pick"].errorf("pick: the answer of %s has no field %s", st.tool, pick)
		}
		outputs[st.id] = part
		if !st.optional {
			required = append(required, st.id)
		}
	}
	used := slices.Clone(s.echo)
	for i := range w.steps {
		st := &w.steps[i]
		for _, ref := range st.args.refs() {
			name, _, isStep := strings.Cut(ref, ".")
			j, known := index[name]
			switch {
			case !isStep:
				s.checkRefs(argNodes[i], []string{ref})
				used = append(used, ref)
			case !known:
				argNodes[i].errorf("args: {%s} names no step", ref)
			default:
				st.after = append(st.after, j)
				st.refs = append(st.refs, ref)
			}
		}
	}
	if id, cyclic := w.cycle(); cyclic {
		s.bodyValue.errorf("steps: step %s waits for itself: the steps form a cycle", id)
	}
	s.checkUsed(used)
	if len(b.errs) > before {
		return nil
	}
	for _, name := range s.echo {
		outputs[name] = schema{"type": s.properties[name]["type"]}
		if s.properties[name]["type"] == nil {
			outputs[name] = schema{}
		}
	}
	outputs["partial_errors"] = partialSchema()
	outputs["incomplete"] = schema{
		"type": "array", "description": "parts of which more was there", "items": schema{"type": "string"},
	}
	t := &atlas.Tool{
		Output:   raw(object(outputs, append(required, "partial_errors")...)),
		CacheTTL: 30 * time.Second, Timeout: workflowTimeout,
		Resource: fixedResource(string(s.level), s.name),
		Run:      w.run,
	}
	inherit(t, kids)
	return &definition{tool: t, body: s.written()}
}

// cycle reports a step that waits for itself, by way of others or not.
func (w workflow) cycle() (string, bool) {
	const (
		unseen = iota
		open
		done
	)
	state := make([]int, len(w.steps))
	var visit func(i int) bool
	visit = func(i int) bool {
		if state[i] != unseen {
			return state[i] == open
		}
		state[i] = open
		if slices.ContainsFunc(w.steps[i].after, visit) {
			return true
		}
		state[i] = done
		return false
	}
	for i := range w.steps {
		if visit(i) {
			return w.steps[i].id, true
		}
	}
	return "", false
}

// checkArgs checks the names of a step's arguments against the child's input.
func checkArgs(kid *definition, args shape, stepNode, argNode node) {
	var input struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
	}
	if json.Unmarshal(kid.tool.Input, &input) != nil {
		return
	}
	for _, name := range append(input.Required, kid.asked...) {
		if _, ok := args.fields[name]; !ok {
			stepNode.errorf("args: %s needs %s", kid.tool.Name, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(args.fields)) {
		if _, ok := input.Properties[name]; !ok {
			argNode.errorf("args: %s has no input %s", kid.tool.Name, name)
		}
	}
}

// partOf returns the schema of a part of an answer, or false if the answer cannot have that part.
func partOf(output json.RawMessage, path []string) (schema, bool) {
	var s schema
	if json.Unmarshal(output, &s) != nil {
		return schema{}, true
	}
	for _, name := range path {
		properties, _ := s["properties"].(map[string]any)
		next, ok := properties[name].(map[string]any)
		if !ok {
			return schema{}, s["additionalProperties"] != false
		}
		s = next
	}
	return s, true
}

// outcome is what became of a step.
type outcome struct {
	part      json.RawMessage
	values    any // decoded, for steps that others use
	truncated bool
	partial   bool
	asOf      time.Time
	err       error
}

func (w workflow) run(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	args, err := values(call)
	if err != nil {
		return atlas.Result{}, err
	}
	inner, cancel := inTime(ctx)
	defer cancel()
	outcomes := make([]outcome, len(w.steps))
	done := make([]chan struct{}, len(w.steps))
	for i := range done {
		done[i] = make(chan struct{})
	}
	slots := make(chan struct{}, fanOut)
	reports := &progress{peer: call.Peer, total: len(w.steps)}
	var wg sync.WaitGroup
	for i := range w.steps {
		wg.Go(func() {
			defer close(done[i])
			for _, j := range w.steps[i].after {
				<-done[j] // ends: steps form no cycle, and each ends soon after inner does
			}
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				outcomes[i] = w.step(inner, call, w.steps[i], args, outcomes)
			case <-inner.Done():
				outcomes[i] = outcome{err: inner.Err()}
			}
			if outcomes[i].err != nil && !w.steps[i].optional {
				cancel() // the whole fails: leave the sources alone
			}
			if inner.Err() == nil {
				reports.step(w.steps[i].id)
			}
		})
	}
	wg.Wait()
	return w.collect(ctx, args, outcomes)
}

// step makes one call. It reads the outcomes of the steps that it waited for and of no others.
func (w workflow) step(ctx context.Context, call atlas.Call, st step, args map[string]any, outcomes []outcome) outcome {
	for _, j := range st.after {
		if err := outcomes[j].err; err != nil {
			return outcome{err: err}
		}
	}
	get := func(ref string) (any, bool) {
		name, path, isStep := strings.Cut(ref, ".")
		if !isStep {
			v, ok := args[ref]
			return v, ok
		}
		for _, j := range st.after {
			if w.steps[j].id == name {
				return at(outcomes[j].values, strings.Split(path, "."))
			}
		}
		return nil, false
	}
	filled, _ := st.args.value(get)
	childArgs, _ := filled.(map[string]any)
	res, err := w.children.run(ctx, call, st.tool, childArgs)
	if err != nil {
		return outcome{err: err}
	}
	part := res.Structured
	for _, name := range st.pick {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(part, &fields); err != nil {
			return outcome{err: atlas.Errorf(atlas.CodeInternal, err, "")}
		}
		part = fields[name]
	}
	out := outcome{part: part, truncated: res.Truncated, partial: res.Partial, asOf: res.AsOf}
	if len(part) == 0 {
		out.part = json.RawMessage("null")
	}
	if w.isUsed(st.id) {
		if err := json.Unmarshal(out.part, &out.values); err != nil {
			return outcome{err: atlas.Errorf(atlas.CodeInternal, err, "")}
		}
	}
	return out
}

func (w workflow) isUsed(id string) bool {
	return slices.ContainsFunc(w.steps, func(st step) bool {
		return slices.ContainsFunc(st.refs, func(ref string) bool { return strings.HasPrefix(ref, id+".") })
	})
}

// at returns what stands at a path of a decoded answer; only text, numbers and truth values pass on.
func at(v any, path []string) (any, bool) {
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		v = m[name]
	}
	switch v.(type) {
	case string, float64, bool:
		return v, true
	}
	return nil, false
}

// collect makes the answer of what the steps found.
func (w workflow) collect(ctx context.Context, args map[string]any, outcomes []outcome) (atlas.Result, error) {
	if err := ctx.Err(); err != nil {
		return atlas.Result{}, atlas.ErrorOf(err)
	}
	var required []error
	for i, o := range outcomes {
		if o.err != nil && !w.steps[i].optional {
			required = append(required, o.err)
		}
	}
	if len(required) > 0 {
		return atlas.Result{}, atlas.ErrorOf(firstError(required))
	}
	answered := make(map[string]any, len(outcomes)+len(w.echo)+2)
	failed := map[string]string{}
	var incomplete []string
	var asOf time.Time
	partial := false
	for i, o := range outcomes {
		id := w.steps[i].id
		if o.err != nil { // left out, not empty: "no orders" would be a lie
			failed[id] = lost(o.err)
			continue
		}
		answered[id] = o.part
		asOf = older(asOf, o.asOf)
		partial = partial || o.partial
		if o.truncated {
			incomplete = append(incomplete, id)
		}
	}
	for _, name := range w.echo {
		if v, ok := args[name]; ok {
			answered[name] = v
		}
	}
	answered["partial_errors"] = failed
	if incomplete != nil {
		answered["incomplete"] = incomplete
	}
	res, err := answer(answered)
	res.Partial, res.AsOf = partial || len(failed) > 0, asOf
	return res, err
}

// items returns the nodes of a list.
func (n node) items(key string) ([]node, bool) {
	values, ok := sequence(n.ast)
	if !ok {
		n.errorf("%s: must be a list", key)
		return nil, false
	}
	out := make([]node, len(values))
	for i, v := range values {
		out[i] = n.sub(v)
	}
	return out, true
}
