package isolation_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
	"github.com/atlas-mcp/atlas/internal/source/qdrant/qdranttest"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

// shipped are the sources of the shipped configuration: a map that is laid over another takes its place whole.
var shipped = map[string]string{
	demo.CRM:     "{kind: sqlite, with: {tables: [customers, orders, order_items, documents]}}",
	demo.Tickets: "{kind: fts}",
	demo.Docs:    "{kind: fts, tools: {reads: private}}",
	demo.KB:      "{kind: vec}",
	demo.Files:   "{kind: folder}",
	"http":       "{kind: http}",
}

// with is the shipped configuration with another driver under one of its sources.
func with(name, kind, settings string) string {
	var b strings.Builder
	b.WriteString("seeded: true\nsources:\n")
	for _, other := range slices.Sorted(maps.Keys(shipped)) {
		if other == name {
			fmt.Fprintf(&b, "  %s: {kind: %s, with: {%s}}\n", name, kind, settings)
			continue
		}
		fmt.Fprintf(&b, "  %s: %s\n", other, shipped[other])
	}
	return b.String()
}

// inPostgres is the CRM in a database of the test's own.
func inPostgres(t *testing.T) string {
	t.Helper()
	overlay, _ := postgres(t)
	return overlay
}

func postgres(t *testing.T) (overlay string, d *pgrlstest.Database) {
	t.Helper()
	d = pgrlstest.New(t)
	c := d.Connection(false)
	return with(demo.CRM, "postgres", fmt.Sprintf("dsn: %q, load_dsn: %q, company: true, check_interval: 1h, tables: [customers, orders, order_items, documents]", c.DSN, c.LoadDSN)), d
}

// inPgvector is the knowledge base in a database of the test's own.
func inPgvector(t *testing.T) string {
	t.Helper()
	d := pgrlstest.New(t)
	d.Admin(`CREATE EXTENSION IF NOT EXISTS vector`)
	c := d.Connection(false)
	return with(demo.KB, "pgvector", fmt.Sprintf("dsn: %q, load_dsn: %q", c.DSN, c.LoadDSN))
}

// inQdrant is the knowledge base on a server in memory.
func inQdrant(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(&qdranttest.Server{})
	t.Cleanup(s.Close)
	return with(demo.KB, "qdrant", fmt.Sprintf("url: %q, collection: canaries", s.URL))
}

// inOpenSearch is the tickets on the real server, in indexes of the test's own.
func inOpenSearch(t *testing.T) string {
	t.Helper()
	server := testenv.URL(t, testenv.OpenSearch)
	name := indexes(t, server)
	return with(demo.Tickets, "elasticsearch", fmt.Sprintf("url: %q, index: %s", server, name))
}

// indexes returns a name; the indexes that begin with it are removed at the test's end.
func indexes(t *testing.T, server string) string {
	t.Helper()
	name := "t-isolation-" + strings.ToLower(rand.Text()[:12])
	t.Cleanup(func() {
		var list []struct{ Index string }
		if err := json.Unmarshal(send(t, http.MethodGet, server+"/_cat/indices/"+name+"*?format=json&h=index"), &list); err != nil {
			t.Error(err)
		}
		for _, i := range list {
			send(t, http.MethodDelete, server+"/"+i.Index)
		}
	})
	return name
}

func send(t *testing.T, method, url string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, url, http.NoBody) // cleanups run after its end
	if err != nil {
		t.Fatal(err)
	}
	res, err := new(http.Client).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || res.Body.Close() != nil {
		t.Fatal(err)
	}
	return body
}

// inS3 is the files in a bucket of the test's own.
func inS3(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(testenv.URL(t, testenv.S3))
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := u.User.Password()
	access := u.User.Username()
	u.User = nil
	admin := awss3.New(awss3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(u.String()), UsePathStyle: true, Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""),
	})
	bucket := aws.String("isolation-" + strings.ToLower(rand.Text()[:12]))
	if _, err := admin.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: bucket}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		page, err := admin.ListObjectsV2(ctx, &awss3.ListObjectsV2Input{Bucket: bucket}) // a proof plants a dozen
		if err != nil {
			t.Error(err)
			return
		}
		for _, o := range page.Contents {
			if _, err := admin.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: bucket, Key: o.Key}); err != nil {
				t.Error(err)
			}
		}
		if _, err := admin.DeleteBucket(ctx, &awss3.DeleteBucketInput{Bucket: bucket}); err != nil {
			t.Error(err)
		}
	})
	return with(demo.Files, "s3", fmt.Sprintf("endpoint: %q, bucket: %s, access_key: %q, secret_key: %q", u, *bucket, access, secret))
}
