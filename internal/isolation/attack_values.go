package isolation

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// paths are the ways by which a key is led out of its folder.
func (p *Proof) paths(b *bound) []attempt {
	var out []attempt
	for _, f := range b.slots() {
		if f.form != formKey {
			continue
		}
		for _, key := range p.foreign(b, f, 1) {
			for _, w := range p.ways(key) {
				out = append(out, p.tryA(b, b.with(f.name, w.value), "%s is B's key %s", f.name, w.about))
			}
		}
	}
	return out
}

type way struct{ about, value string }

// ways write B's key so that a store which does not normalise it, or does so twice, goes to B.
func (p *Proof) ways(key string) []way {
	t := string(p.cfg.Tenants[B])
	dir, _, _ := strings.Cut(key, "/")
	return []way{
		{"with B's name before it", t + "/" + key},
		{"below ../B", "../" + t + "/" + key},
		{"below ./../B", "./../" + t + "/" + key},
		{"out of its own folder and into B's", dir + "/../../" + t + "/" + key},
		{"below many ..", strings.Repeat("../", 12) + t + "/" + key},
		{"with %2e%2e", "%2e%2e/" + t + "/" + key},
		{"with ..%2f", "..%2f" + t + "%2f" + key},
		{"with %252e%252e%252f", "%252e%252e%252f" + t + "/" + key},
		{"with ..;/", "..;/" + t + "/" + key},
		{"with backslashes", `..\` + t + `\` + strings.ReplaceAll(key, "/", `\`)},
		{"with doubled slashes", "//" + t + "//" + key},
		{"from the root", "/" + t + "/" + key},
		{"from the root, without B", "/" + key},
		{"with full-width dots", "．．/" + t + "/" + key},
		{"with a two dot leader", "‥/" + t + "/" + key},
		{"with a division slash", "..∕" + t + "∕" + key},
		{"with a zero width space", "..\u200b/" + t + "/" + key},
		{"with a line break", "..\n/" + t + "/" + key},
		{"with NUL before it", "\x00../" + t + "/" + key},
		{"with NUL behind it", key + "\x00.txt"},
		{"with an overlong dot", "..\xc0\xae/" + t + "/" + key},
		{"in capitals", strings.ToUpper(key)},
		{"with a slash behind it", key + "/"},
		{"with /. behind it", key + "/."},
		{"as a file URL", "file:///" + t + "/" + key},
		{"as an address of a bucket", "s3://" + t + "/" + key},
		{"with a drive letter", `C:\` + t + `\` + key},
		{"with a tenant= prefix", "tenant=" + t + "/" + key},
		{"with a wildcard", "*/" + key},
		{"below the home folder", "~" + t + "/" + key},
	}
}

// oddValues put what is no id in the place of one.
func (p *Proof) oddValues(b *bound) []attempt {
	var out []attempt
	for _, f := range b.slots() {
		ids := p.foreign(b, f, 1)
		if len(ids) == 0 {
			continue
		}
		id, t := ids[0], string(p.cfg.Tenants[B])
		for _, v := range []struct {
			about string
			value any
		}{
			{"a wildcard *", "*"},
			{"a wildcard %", "%"},
			{"empty", ""},
			{"null", nil},
			{"a number", 0},
			{"true", true},
			{`{"$ne": ""}`, map[string]any{"$ne": ""}},
			{`{"like": "%"}`, map[string]any{"like": "%"}},
			{"a list with B's id", []any{id}},
			{"a list in a list", []any{[]any{id}}},
			{"B's id and OR 1=1", id + "' OR '1'='1"},
			{"B's id and a comment", id + "'--"},
			{"B's id and UNION", id + "' UNION SELECT * FROM x--"},
			{"B's id with B's name before it", t + "/" + id},
			{"B's id with B's name and a colon before it", t + ":" + id},
			{"B's id with NUL before it", "\x00" + id},
			{"B's id with a space behind it", id + " "},
			{"B's id in the other case", swapCase(id)},
			{"B's id with a full-width digit", fullWidth(id)},
			{"B's id 2,000 times", strings.Repeat(id+",", 2000)},
		} {
			out = append(out, p.tryA(b, b.with(f.name, v.value), "%s is %s", f.name, v.about))
		}
	}
	return out
}

func swapCase(s string) string {
	if up := strings.ToUpper(s); up != s {
		return up
	}
	return strings.ToLower(s)
}

func fullWidth(s string) string {
	for i, r := range s {
		if '0' <= r && r <= '9' {
			return s[:i] + string('０'+r-'0') + s[i+1:]
		}
	}
	return s + "\u200b"
}

// tenantArguments name B in arguments that the tool does not have.
func (p *Proof) tenantArguments(b *bound) []attempt {
	if b.URI != "" {
		return nil
	}
	t := string(p.cfg.Tenants[B])
	var out []attempt
	for _, name := range []string{"tenant_id", "tenant", "_tenant", "X-Tenant-Id", "__proto__", "_meta", "where", "$where"} {
		var value any = t
		if name == "__proto__" || name == "_meta" || name == "where" {
			value = map[string]any{"tenant_id": t, "tenant": t}
		}
		out = append(out, p.tryA(b, b.with(name, value), "B's arguments, and %s is B's name", name))
	}
	return out
}

// uris ask for B's documents by URI.
func (p *Proof) uris(b *bound) []attempt {
	if b.URI == "" || !strings.Contains(b.URI, "{") {
		return nil
	}
	uri := text(b.args["uri"])
	head, _, _ := strings.Cut(b.URI, "{")
	id := strings.TrimPrefix(uri, head)
	scheme, host, _ := strings.Cut(strings.TrimSuffix(head, "/"), "://")
	t := string(p.cfg.Tenants[B])
	list := []way{
		{"as B reads it", uri},
		{"with B's name in the path", head + t + "/" + id},
		{"with B's name as the host", scheme + "://" + t + "/" + host + "/" + id},
		{"with B's name as the user", scheme + "://" + t + "@" + host + "/" + id},
		{"with ../B", head + "../" + t + "/" + id},
		{"with %2e%2e%2fB", head + "%2e%2e%2f" + t + "%2f" + id},
		{"escaped twice", head + url.PathEscape(url.PathEscape(id))},
		{"with a query that names B", uri + "?tenant=" + t},
		{"with a fragment that names B", uri + "#" + t},
		{"with NUL", uri + "%00"},
		{"with a slash behind it", uri + "/"},
		{"with the scheme in capitals", strings.ToUpper(scheme) + "://" + host + "/" + id},
		{"with a backslash", head + `..\` + t + `\` + id},
		{"with a wildcard", head + "*"},
		{"with nothing for the id", head},
	}
	var out []attempt
	for _, w := range list {
		out = append(out, p.tryA(b, map[string]any{"uri": w.value}, "read B's URI %s", w.about))
	}
	for i, other := range p.addresses(b, B) {
		if u := text(other["uri"]); u != uri && i < 4 {
			out = append(out, p.tryA(b, other, "read %s of B", clip(u, 60)))
		}
	}
	none := strings.Replace(uri, id, nowhere(id), 1)
	if none != uri {
		out = append(out, attempt{Attempt: Attempt{Tried: fmt.Sprintf("read B's URI %s, then one that nobody has: the answers must be alike", clip(uri, 60))}, run: func(ctx context.Context) outcome {
			return p.compare(ctx, b, uri, none, func(uri string) Ask { return b.ask(map[string]any{"uri": uri}) })
		}})
	}
	return out
}
