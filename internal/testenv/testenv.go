// Package testenv gives tests the real servers that they run against. `make test` starts them on
// loopback (see the program stack) and tells where they are in the environment; a test asks for
// the one it needs with [URL]. Without them a test is skipped with the way to run it, unless CI is
// set: then a missing server fails the test, so that no run counts as green that tested nothing.
//
// Tests share the servers. Each test makes what it needs under a name of its own (a database, an
// index, a bucket, a key prefix) and removes it at its end. A test that must stop a server, pause
// it, or have it to itself owns one: [Start].
package testenv

import (
	"os"
	"testing"
)

// A Server names one of the servers: it is the variable that holds its URL.
type Server string

// The servers.
const (
	Postgres   Server = "ATLAS_TEST_POSTGRES"   // postgres://, a superuser; with pgvector
	PgBouncer  Server = "ATLAS_TEST_PGBOUNCER"  // postgres://, transaction pooling before Postgres, any database and role
	Redis      Server = "ATLAS_TEST_REDIS"      // redis://
	S3         Server = "ATLAS_TEST_S3"         // http://ACCESS:SECRET@HOST:PORT
	OpenSearch Server = "ATLAS_TEST_OPENSEARCH" // http://
	Qdrant     Server = "ATLAS_TEST_QDRANT"     // http://
)

// Cache is the variable with the folder that holds the servers' files, for [Start]; default: .cache in the
// module's folder.
const Cache = "ATLAS_TEST_CACHE"

// URL returns where the server is.
func URL(tb testing.TB, s Server) string {
	tb.Helper()
	url := os.Getenv(string(s)) //nolint:forbidigo // the environment is how tests are told
	if url == "" {
		absent(tb, string(s)+" is not set")
	}
	return url
}

// absent ends the test, for want of a server.
func absent(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("CI") != "" { //nolint:forbidigo // as above
		tb.Fatalf("%s, and with CI set a missing server is a failure: run make test, which starts the servers", reason)
	}
	tb.Skipf("%s: run make test, which starts the servers", reason)
}
