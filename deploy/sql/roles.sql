-- The two roles, once in each cluster, by a superuser. Neither has a password here: give them one
-- with \password, or let pg_hba.conf name certificates.
--
-- atlas_owner owns the tables and runs migrations and `atlas seed` (load_dsn); atlas_app is what
-- Atlas logs in as (dsn). It owns nothing, and row-level security binds it.
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'atlas_owner') THEN
		CREATE ROLE atlas_owner LOGIN;
	END IF;
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'atlas_app') THEN
		CREATE ROLE atlas_app LOGIN;
	END IF;
END
$$;
ALTER ROLE atlas_owner NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE atlas_app NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT CONNECTION LIMIT 200;

-- What Atlas sets for each query itself, it sets; these are the bounds of what it cannot set.
ALTER ROLE atlas_app SET temp_file_limit = '256MB';
ALTER ROLE atlas_app SET statement_timeout = '30s';
ALTER ROLE atlas_app SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE atlas_app SET default_transaction_read_only = on;
