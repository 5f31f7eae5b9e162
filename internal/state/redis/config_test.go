package redis_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas/internal/state/redis"
)

func TestConfigTellsAllMistakes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		cfg  redis.Config
		want []string // parts of the error; none means valid
	}{
		"none":          {redis.Config{}, nil},
		"url":           {redis.Config{URL: "redis://localhost"}, nil},
		"url with all":  {redis.Config{URL: "rediss://u:p%40ss@[::1]:6380/3", DB: 3, Username: "u"}, nil},
		"addresses":     {redis.Config{Addresses: []string{"localhost:6379"}, BusKey: strings.Repeat("aB", 32), KeyPrefix: "a-B_9.:"}, nil},
		"sentinel":      {redis.Config{Mode: "sentinel", SentinelMaster: "m", Addresses: []string{"a:1", "b:2"}}, nil},
		"cluster":       {redis.Config{Mode: "cluster", Addresses: []string{"a:1", "b:2"}}, nil},
		"key but where": {redis.Config{KeyPrefix: "x:"}, []string{"neither url nor addresses"}},
		"two places":    {redis.Config{URL: "redis://a", Addresses: []string{"a:1"}}, []string{"not both"}},
		"scheme":        {redis.Config{URL: "http://:secret@a"}, []string{"url: must begin"}},
		"no URL":        {redis.Config{URL: "redis://:sec\x7fret@a"}, []string{"url: not a URL"}},
		"query":         {redis.Config{URL: "redis://a?secret=1"}, []string{"url: must be"}},
		"path":          {redis.Config{URL: "redis://a/x"}, []string{"the number of the database"}},
		"other db":      {redis.Config{URL: "redis://a/1", DB: 2}, []string{"the number of the database"}},
		"other user":    {redis.Config{URL: "redis://u:secret@a", Username: "v"}, []string{"another user"}},
		"many": {
			redis.Config{
				Addresses: []string{"a", ":1", "a:0"}, Mode: "ring", DB: -1, Username: "u", KeyPrefix: "a{b", DialTimeout: -1, Timeout: time.Hour,
				SentinelMaster: "m", TLS: redis.TLS{CertFile: "c"}, BusKey: "secret",
			},
			[]string{"addresses[0]", "addresses[1]", "addresses[2]", "mode:", "db:", "password:", "key_prefix:", "dial_timeout:", "timeout:", "sentinel_*", "tls:", "bus_key:"},
		},
		"many addresses": {redis.Config{Addresses: []string{"a:1", "b:1"}}, []string{"a standalone Redis has one"}},
		"no master":      {redis.Config{Mode: "sentinel", Addresses: []string{"a:1"}}, []string{"sentinel_master"}},
		"cluster's db":   {redis.Config{Mode: "cluster", URL: "redis://a/1"}, []string{"database 0 only"}},
		"long prefix":    {redis.Config{URL: "redis://a", KeyPrefix: strings.Repeat("x", 65)}, []string{"key_prefix"}},
		"short key":      {redis.Config{URL: "redis://a", BusKey: strings.Repeat("a", 62)}, []string{"bus_key"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tt.cfg.Validate()
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%v tells a secret", err)
			}
			if _, openErr := redis.Open(t.Context(), tt.cfg, redis.Deps{}); openErr == nil && err != nil {
				t.Error("Open takes it")
			}
		})
	}
}

func TestCleartext(t *testing.T) {
	t.Parallel()
	for url, want := range map[string][]string{
		"redis://localhost": nil, "redis://127.0.0.1:1": nil, "redis://[::1]": nil, "rediss://redis.internal": nil, "": nil, "bad": nil,
		"redis://:p@redis.internal": {"redis.internal:6379"}, "redis://10.0.0.7:1": {"10.0.0.7:1"},
	} {
		if diff := cmp.Diff(want, redis.Config{URL: url}.Cleartext()); diff != "" {
			t.Errorf("%s: %s", url, diff)
		}
	}
}

func TestFilesThatAreNotThere(t *testing.T) {
	t.Parallel()
	for _, cfg := range []redis.TLS{{CAFile: "none.pem"}, {CertFile: "none.pem", KeyFile: "none.pem"}, {CAFile: "config_test.go"}} {
		if _, err := redis.Open(t.Context(), redis.Config{URL: "redis://localhost", TLS: cfg}, redis.Deps{}); err == nil || !strings.Contains(err.Error(), "tls.") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
