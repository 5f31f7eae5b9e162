-- What stands between an agent's SQL and other tenants when every other wall fails: once in each
-- database, by a superuser. Functions are granted to PUBLIC by default; roles that need one of these
-- get it back by name. Running it again changes nothing.

-- Who can call set_config can set the tenant in the middle of a query. The rule that makes
-- UPDATE pg_settings work calls it, too. (pg_dump calls it: dump as a superuser or as atlas_owner.)
REVOKE EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) FROM PUBLIC;

-- Functions that run a text as SQL, which no guard of statements has read.
REVOKE EXECUTE ON FUNCTION
	pg_catalog.query_to_xml(text, boolean, boolean, text),
	pg_catalog.query_to_xmlschema(text, boolean, boolean, text),
	pg_catalog.query_to_xml_and_xmlschema(text, boolean, boolean, text),
	pg_catalog.cursor_to_xml(refcursor, integer, boolean, boolean, text),
	pg_catalog.cursor_to_xmlschema(refcursor, boolean, boolean, text),
	pg_catalog.table_to_xml(regclass, boolean, boolean, text),
	pg_catalog.table_to_xmlschema(regclass, boolean, boolean, text),
	pg_catalog.table_to_xml_and_xmlschema(regclass, boolean, boolean, text),
	pg_catalog.schema_to_xml(name, boolean, boolean, text),
	pg_catalog.schema_to_xmlschema(name, boolean, boolean, text),
	pg_catalog.schema_to_xml_and_xmlschema(name, boolean, boolean, text),
	pg_catalog.database_to_xml(boolean, boolean, text),
	pg_catalog.database_to_xmlschema(boolean, boolean, text),
	pg_catalog.database_to_xml_and_xmlschema(boolean, boolean, text)
FROM PUBLIC;

-- Large objects belong to a role, and all tenants share one: no row-level security reaches them.
REVOKE EXECUTE ON FUNCTION
	pg_catalog.lo_creat(integer), pg_catalog.lo_create(oid), pg_catalog.lo_from_bytea(oid, bytea),
	pg_catalog.lo_open(oid, integer), pg_catalog.lo_get(oid), pg_catalog.lo_get(oid, bigint, integer),
	pg_catalog.lo_put(oid, bigint, bytea), pg_catalog.lowrite(integer, bytea), pg_catalog.loread(integer, integer),
	pg_catalog.lo_truncate(integer, integer), pg_catalog.lo_truncate64(integer, bigint), pg_catalog.lo_unlink(oid)
FROM PUBLIC;

-- Other sessions' statements name other tenants. Monitoring keeps them.
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_stat_get_activity(integer), pg_catalog.pg_stat_get_backend_activity(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_get_activity(integer), pg_catalog.pg_stat_get_backend_activity(integer) TO pg_monitor;

-- Signals between sessions: advisory locks outlive a query, notifications cross it.
REVOKE EXECUTE ON FUNCTION
	pg_catalog.pg_advisory_lock(bigint), pg_catalog.pg_advisory_lock(integer, integer),
	pg_catalog.pg_advisory_lock_shared(bigint), pg_catalog.pg_advisory_lock_shared(integer, integer),
	pg_catalog.pg_try_advisory_lock(bigint), pg_catalog.pg_try_advisory_lock(integer, integer),
	pg_catalog.pg_try_advisory_lock_shared(bigint), pg_catalog.pg_try_advisory_lock_shared(integer, integer),
	pg_catalog.pg_notify(text, text)
FROM PUBLIC;

-- Nobody but the owner puts tables or functions where names are looked up.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
