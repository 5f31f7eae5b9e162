#!/bin/sh
# Runs once, in an empty Postgres, as its superuser: roles, two databases, and what only a superuser may do.
# Atlas itself gets none of these rights; its tables are made by `atlas migrate`, as their owners.
set -eu

sql() { psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username "$POSTGRES_USER" "$@"; }

# atlas_owner and atlas_app, for the company's data.
sql --dbname postgres --file /etc/atlas/sql/roles.sql

# Passwords go in on the standard input, not in arguments.
sql --dbname postgres <<'SQL'
\set owner_password `printenv ATLAS_OWNER_PASSWORD`
\set app_password `printenv ATLAS_APP_PASSWORD`
\set state_owner_password `printenv ATLAS_STATE_OWNER_PASSWORD`
\set state_password `printenv ATLAS_STATE_PASSWORD`

-- For Atlas's own state: one owns and migrates, the other serves.
CREATE ROLE atlas_state_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
CREATE ROLE atlas_state LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT;

ALTER ROLE atlas_owner PASSWORD :'owner_password';
ALTER ROLE atlas_app PASSWORD :'app_password';
ALTER ROLE atlas_state_owner PASSWORD :'state_owner_password';
ALTER ROLE atlas_state PASSWORD :'state_password';

CREATE DATABASE atlas OWNER atlas_owner;
CREATE DATABASE atlas_state OWNER atlas_state_owner;

-- A role connects to its own database and to no other.
REVOKE CONNECT, TEMPORARY ON DATABASE atlas, atlas_state, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE atlas TO atlas_app;
GRANT CONNECT ON DATABASE atlas_state TO atlas_state;
SQL

sql --dbname atlas --file /etc/atlas/sql/harden.sql
sql --dbname atlas --command 'CREATE EXTENSION IF NOT EXISTS vector'
sql --dbname atlas_state --command 'REVOKE CREATE ON SCHEMA public FROM PUBLIC'
