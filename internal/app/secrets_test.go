package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

// Whatever is wrong with a dependency, no password and no key is in what the operator is shown: he pastes it
// into tickets.
func TestNoSecretIsTold(t *testing.T) {
	const secret = "hunter2Secret"
	env := func(name string) (string, bool) { return secret, name == "SECRET" }
	postgres := func(with string) map[string]string { // of all that take the DSN of a Postgres
		return map[string]string{
			"state":    "state: {kind: postgres, with: {" + with + "}}",
			"source":   "sources: {s: {kind: postgres, with: {tables: [orders], " + with + "}}}",
			"pgvector": "sources: {s: {kind: pgvector, with: {" + with + "}}}",
		}
	}
	cases := map[string]string{
		"redis away":               `redis: {url: "redis://user:${env:SECRET}@127.0.0.1:1"}`,
		"redis, no number":         `redis: {url: "redis://user:${env:SECRET}@127.0.0.1:1/x"}`,
		"redis, no URL":            `redis: {url: "redis://user:${env:SECRET}@127.0.0.1:port%zz"}`,
		"redis, another scheme":    `redis: {url: "http://user:${env:SECRET}@127.0.0.1:1"}`,
		"redis, two passwords":     `redis: {url: "redis://user:${env:SECRET}@127.0.0.1:1", password: "${env:SECRET}2"}`,
		"redis, key":               `redis: {url: "redis://127.0.0.1:1", bus_key: "${env:SECRET}"}`,
		"redis, address":           `redis: {addresses: ["user:${env:SECRET}@127.0.0.1:1"]}`,
		"redis, password, mistake": `redis: {url: "redis://127.0.0.1:1", password: "${env:SECRET}", nosuch: 1}`,
		"elasticsearch away":       `sources: {s: {kind: elasticsearch, with: {url: "http://127.0.0.1:1", index: i, username: u, password: "${env:SECRET}"}}}`,
		"elasticsearch in the URL": `sources: {s: {kind: elasticsearch, with: {url: "http://u:${env:SECRET}@127.0.0.1:1", index: i}}}`,
		"elasticsearch, no URL":    `sources: {s: {kind: elasticsearch, with: {url: "http://u:${env:SECRET}@127.0.0.1:port%zz", index: i}}}`,
		"elasticsearch, in clear":  `sources: {s: {kind: elasticsearch, with: {url: "http://search.example", index: i, api_key: "${env:SECRET}"}}}`,
		"elasticsearch, three":     `sources: {s: {kind: elasticsearch, with: {url: "http://127.0.0.1:1", index: i, api_key: "${env:SECRET}", username: u, password: "${env:SECRET}", bearer: "${env:SECRET}"}}}`,
		"qdrant away":              `sources: {s: {kind: qdrant, with: {url: "http://127.0.0.1:1", api_key: "${env:SECRET}"}}}`,
		"qdrant in the URL":        `sources: {s: {kind: qdrant, with: {url: "http://u:${env:SECRET}@127.0.0.1:1"}}}`,
		"qdrant, no URL":           `sources: {s: {kind: qdrant, with: {url: "http://u:${env:SECRET}@127.0.0.1:port%zz"}}}`,
		"qdrant, in clear":         `sources: {s: {kind: qdrant, with: {url: "http://q.example", api_key: "${env:SECRET}"}}}`,
		"s3 away":                  `sources: {s: {kind: s3, with: {endpoint: "http://127.0.0.1:1", bucket: bucket, access_key: a, secret_key: "${env:SECRET}"}}}`,
		"s3 in the URL":            `sources: {s: {kind: s3, with: {endpoint: "http://u:${env:SECRET}@127.0.0.1:1", bucket: bucket, access_key: a, secret_key: b}}}`,
		"s3, no URL":               `sources: {s: {kind: s3, with: {endpoint: "http://u:${env:SECRET}@127.0.0.1:port%zz", bucket: bucket, access_key: a, secret_key: b}}}`,
		"s3, half":                 `sources: {s: {kind: s3, with: {endpoint: "http://127.0.0.1:1", bucket: bucket, secret_key: "${env:SECRET}"}}}`,
		"openai away":              `embedder: {kind: openai, with: {url: "http://127.0.0.1:1/v1", api_key: "${env:SECRET}", model: m}}`,
		"openai away, dim known":   `embedder: {kind: openai, with: {url: "http://127.0.0.1:1/v1", api_key: "${env:SECRET}", model: m, dim: 8}}`,
		"openai in the URL":        `embedder: {kind: openai, with: {url: "http://u:${env:SECRET}@127.0.0.1:1/v1", model: m, dim: 8}}`,
		"openai, no URL":           `embedder: {kind: openai, with: {url: "http://u:${env:SECRET}@127.0.0.1:port%zz", model: m, dim: 8}}`,
		"openai, in clear":         `embedder: {kind: openai, with: {url: "http://e.example/v1", api_key: "${env:SECRET}", model: m, dim: 8}}`,
		"a list instead":           `sources: {s: {kind: qdrant, with: ["${env:SECRET}"]}}`,
		"a mistake beside":         `sources: {s: {kind: qdrant, with: {url: "http://127.0.0.1:1", api_key: "${env:SECRET}", max_k: many}}}`,
	}
	if _, ok := app.Kinds["mcp"]; ok {
		cases["mcp away"] = `sources: {s: {kind: mcp, with: {url: "http://127.0.0.1:1/mcp", shared: true, bearer: "${env:SECRET}"}}}`
		cases["mcp in the URL"] = `sources: {s: {kind: mcp, with: {url: "http://u:${env:SECRET}@127.0.0.1:1/mcp", shared: true}}}`
		cases["mcp, no URL"] = `sources: {s: {kind: mcp, with: {url: "http://u:${env:SECRET}@127.0.0.1:port%zz", shared: true}}}`
	}
	for what, with := range map[string]string{
		"away":         `dsn: "postgres://u:${env:SECRET}@127.0.0.1:1/db"`,
		"owner away":   `dsn: "postgres://u@127.0.0.1:1/db", load_dsn: "postgres://u:${env:SECRET}@127.0.0.1:1/db"`,
		"as words":     `dsn: "host=127.0.0.1 port=1 user=u password=${env:SECRET} dbname=db"`,
		"bad words":    `dsn: "host=127.0.0.1 port=x user=u password=${env:SECRET} dbname=db"`,
		"bad port":     `dsn: "postgres://u:${env:SECRET}@127.0.0.1:port/db"`,
		"bad escape":   `dsn: "postgres://u:${env:SECRET}%zz@127.0.0.1:1/db"`,
		"bad mode":     `dsn: "postgres://u:${env:SECRET}@127.0.0.1:1/db?sslmode=perhaps"`,
		"in a query":   `dsn: "postgres://u@127.0.0.1:1/db?password=${env:SECRET}&sslmode=perhaps"`,
		"a mistake by": `dsn: "postgres://u:${env:SECRET}@127.0.0.1:1/db", max_conns: many`,
		"the owner's":  `dsn: "postgres://u@127.0.0.1:1/db", load_dsn: "postgres://u:${env:SECRET}@127.0.0.1:port/db"`,
	} {
		for where, overlay := range postgres(with) {
			cases[where+" of Postgres, "+what] = overlay
		}
	}
	// And servers that are there, and refuse.
	host := func(s testenv.Server) string {
		u, err := url.Parse(testenv.URL(t, s))
		if err != nil {
			t.Fatal(err)
		}
		return u.Host
	}
	cases["redis refuses"] = `redis: {url: "redis://nosuch:${env:SECRET}@` + host(testenv.Redis) + `"}`
	cases["s3 refuses"] = `sources: {s: {kind: s3, with: {endpoint: "http://` + host(testenv.S3) + `", bucket: bucket, access_key: nosuch, secret_key: "${env:SECRET}"}}}`
	for where, overlay := range postgres(`dsn: "postgres://nosuch:${env:SECRET}@` + host(testenv.Postgres) + `/postgres?sslmode=disable"`) {
		cases[where+" of Postgres refuses"] = overlay
	}
	for name, overlay := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			text := "tools: {files: []}\n"
			if !strings.HasPrefix(overlay, "sources") {
				text += "sources: {}\n"
			}
			for file, text := range map[string]string{"atlas.yaml": text + overlay + "\n", "policy.yaml": "rules: []\n"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			o := app.Options{ConfigFile: filepath.Join(dir, "atlas.yaml"), DataDir: filepath.Join(dir, "data"), Env: env, LogTo: &log, LogLevel: "debug", Listen: "127.0.0.1:0"}
			findings, err := json.Marshal(app.Doctor(t.Context(), o))
			if err != nil {
				t.Fatal(err)
			}
			told := fmt.Sprintf("doctor: %s\n", findings)
			if !strings.Contains(told, `"failed"`) {
				t.Errorf("nothing is wrong: %s", told)
			}
			if a, err := app.Open(t.Context(), o); err != nil {
				told += fmt.Sprintf("start: %v\n%+v\n", err, err)
			} else if err := a.Close(); err != nil {
				t.Error(err)
			}
			told += fmt.Sprintf("seed: %v\n", app.Seed(t.Context(), o, false, func(s app.Step) { told += s.Name }))
			_, err = app.VerifyConfigured(t.Context(), o, true, true)
			told += fmt.Sprintf("verify: %v\nlog: %s", err, log.String())
			if strings.Contains(told, secret) {
				t.Errorf("the secret is told:\n%s", told)
			}
		})
	}
}
