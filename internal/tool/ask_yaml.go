package tool

import (
	"slices"
)

// readAsk decodes "ask:".
func (b *builder) readAsk(s *spec) {
	var fields, confirm node
	var whenMissing []string
	var message string
	found := s.ask.into(map[string]any{"message": &message, "when_missing": &whenMissing, "fields": &fields, "confirm": &confirm})
	a := &ask{message: message, presets: map[string]any{}}
	if len(whenMissing) == 0 && confirm.ast == nil {
		s.ask.errorf("ask: asks nothing; give it when_missing, confirm or both")
	}
	own := map[string]schema{}
	if fields.ast != nil {
		entries, _ := fields.entries()
		for _, e := range entries {
			var p schema
			before := len(b.errs)
			e.value.decode(e.key, &p)
			if !slices.Contains(whenMissing, e.key) {
				e.name.errorf("fields: %s is not in when_missing", e.key)
			} else if len(b.errs) == before {
				own[e.key] = p
			}
		}
	}
	for i, name := range whenMissing {
		p, known := s.properties[name]
		_, preset := p["default"]
		switch at := found["when_missing"]; {
		case !known:
			at.errorf("when_missing: there is no input %q", name)
			continue
		case slices.Contains(whenMissing[:i], name):
			at.errorf("when_missing: %s is there twice", name)
			continue
		case preset:
			at.errorf("when_missing: %s has a default and is never missing; move the default to fields", name)
			continue
		case slices.Contains(s.required, name):
			at.errorf("when_missing: %s is required and is never missing; take it out of required", name)
			continue
		}
		at := found["when_missing"]
		if q, ok := own[name]; ok {
			p, at = q, fields
		}
		f, err := newField(name, p)
		if err != nil {
			at.errorf("%s %s", name, err)
			continue
		}
		a.fields = append(a.fields, f)
		s.asked = append(s.asked, name)
		if !slices.Contains(s.needed, name) { // it is there whenever the tool runs
			s.needed = append(s.needed, name)
			slices.Sort(s.needed)
		}
	}
	for name, p := range s.properties {
		if v, ok := p["default"]; ok {
			a.presets[name] = v
		}
	}
	if a.message == "" {
		a.message = "This call needs: " + names(a.fields)
	}
	if confirm.ast != nil {
		var text string
		confirm.decode("confirm", &text)
		var err error
		if a.confirm, err = parsePlaceholders(text); err != nil {
			confirm.errorf("confirm: %s", err)
		} else if len(a.confirm.parts) == 0 {
			confirm.errorf("confirm: is empty; write the question")
		}
		for _, p := range a.confirm.parts {
			if p.ref == "" {
				continue
			}
			if _, ok := s.properties[p.ref]; !ok {
				confirm.errorf("confirm: {{%s}} is no input of %s", p.ref, s.name)
			}
			if p.quote {
				confirm.errorf("confirm: {{%s | quote}}: arguments are always quoted here; leave it out", p.ref)
			}
		}
	}
	s.asks = a
}
