// Package sql holds the SQL that prepares a Postgres for Atlas: roles, REVOKEs, and the migrations of
// the demo company. See README.md beside it.
package sql

import "embed"

// Harden is what a superuser runs once in each database.
//
//go:embed harden.sql
var Harden string

// Roles makes the roles atlas_owner and atlas_app, once in each cluster.
//
//go:embed roles.sql
var Roles string

// Migrations are the demo company's, for goose, in the folder migrations.
//
//go:embed migrations/*.sql
var Migrations embed.FS
