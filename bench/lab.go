//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// A lab is what the SQL rows need beside the servers under test.
type lab struct {
	db      database
	toolbox string // the program
	own     []*servers.Server
}

// openLab fetches what is not in the cache yet, starts Postgres unless ATLAS_TEST_POSTGRES says where one
// is (and likewise PgBouncer, if it is to stand between), and makes a database.
func openLab(ctx context.Context, o options) (_ *lab, err error) {
	l := &lab{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.toolbox, err = fetchToolbox(ctx, o.cache); err != nil {
		return nil, err
	}
	kinds := []servers.Kind{servers.Postgres()}
	if o.pooler {
		kinds = append(kinds, servers.PgBouncer())
	}
	urls, given := map[string]string{}, map[string]string{}
	var start []servers.Kind
	for _, k := range kinds {
		if value := os.Getenv(k.Env); value != "" {
			u, err := url.Parse(value)
			if err != nil || u.Host == "" {
				return nil, fmt.Errorf("%s is not a URL", k.Env)
			}
			urls[k.Name], given[k.Name] = value, u.Host
			continue
		}
		start = append(start, k)
	}
	cache, err := servers.OpenCache(o.cache, os.Environ())
	if err != nil {
		return nil, err
	}
	if err := cache.Fetch(ctx, start, os.Stderr); err != nil {
		return nil, err
	}
	if l.own, err = servers.StartAll(ctx, cache, start, given, func(servers.Kind) servers.Options { return servers.Options{} }, os.Stderr); err != nil {
		return nil, err
	}
	for i, k := range start {
		urls[k.Name] = l.own[i].URL()
	}
	server := urls["postgres"]
	via := server
	if o.pooler {
		via = urls["pgbouncer"]
	}
	l.db, err = makeDatabase(ctx, server, via)
	return l, err
}

// close removes the database and stops what was started. The servers under test have ended before.
func (l *lab) close() error {
	var err error
	if l.db.Name != "" {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err = l.db.drop(ctx)
	}
	return errors.Join(err, servers.CloseAll(l.own))
}
