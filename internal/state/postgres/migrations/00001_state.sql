-- +goose Up
-- Atlas's own state, in the schema atlas. Times are nanoseconds since the Unix epoch, 0 for none. The
-- clock that decides what has expired is the database's, one for all replicas.

-- +goose StatementBegin
CREATE FUNCTION atlas.now_ns() RETURNS bigint LANGUAGE sql VOLATILE
	AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000 $$;
-- +goose StatementEnd

-- One row for each tenant: who locks it adds for the tenant, one at a time.
CREATE TABLE atlas.tenant (
	tenant   text PRIMARY KEY,
	memories bigint NOT NULL DEFAULT 0 CHECK (memories >= 0)
);

-- approval.live is true for the one row that decides the fate of its binding; the index makes it one.
-- binding is a hash of what the approval is bound to, for the index holds short keys only.
CREATE TABLE atlas.approval (
	tenant      text   NOT NULL,
	id          text   NOT NULL,
	home_tenant text   NOT NULL,
	issuer      text   NOT NULL,
	subject     text   NOT NULL,
	delegator   text   NOT NULL,
	tool        text   NOT NULL,
	version     text   NOT NULL,
	policy      text   NOT NULL,
	args        text   NOT NULL,
	binding     bytea  NOT NULL,
	preview     text   NOT NULL,
	state       text   NOT NULL,
	approver    text   NOT NULL,
	reason      text   NOT NULL,
	created     bigint NOT NULL,
	expires     bigint NOT NULL,
	decided     bigint NOT NULL,
	live        boolean NOT NULL,
	PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX approval_live ON atlas.approval (tenant, binding) WHERE live;
CREATE INDEX approval_list ON atlas.approval (tenant, created);
CREATE INDEX approval_expires ON atlas.approval (expires);

-- +goose StatementBegin
-- Of a row, the state as of now.
CREATE FUNCTION atlas.shown(state text, expires bigint, now bigint) RETURNS text LANGUAGE sql IMMUTABLE
	AS $$ SELECT CASE WHEN state IN ('pending', 'approved') AND expires <= now THEN 'expired' ELSE state END $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Stores a, or returns the live approval of its binding; no row where a limit is reached.
CREATE FUNCTION atlas.approval_add(a atlas.approval, per_subject bigint, per_tenant bigint) RETURNS SETOF atlas.approval
LANGUAGE plpgsql AS $$
DECLARE
	now bigint;
	of_tenant bigint;
	of_subject bigint;
BEGIN
	INSERT INTO atlas.tenant AS t (tenant) VALUES (a.tenant) ON CONFLICT (tenant) DO UPDATE SET memories = t.memories;
	now := atlas.now_ns();
	-- What has expired is no longer live: it makes room for the same binding. A denial stays a denial.
	UPDATE atlas.approval p SET live = false, state = atlas.shown(p.state, p.expires, now)
		WHERE p.live AND p.tenant = a.tenant AND p.expires <= now;
	RETURN QUERY SELECT * FROM atlas.approval p WHERE p.live AND p.tenant = a.tenant AND p.binding = a.binding;
	IF FOUND THEN
		RETURN;
	END IF;
	SELECT count(*), count(*) FILTER (WHERE p.home_tenant = a.home_tenant AND p.issuer = a.issuer AND p.subject = a.subject)
		INTO of_tenant, of_subject FROM atlas.approval p WHERE p.live AND p.tenant = a.tenant AND p.state = 'pending';
	IF of_subject >= per_subject OR of_tenant >= per_tenant THEN
		RETURN;
	END IF;
	INSERT INTO atlas.approval SELECT a.*;
	RETURN NEXT a;
END $$;
-- +goose StatementEnd

-- A memory of the copilot.
CREATE TABLE atlas.memory (
	tenant   text   NOT NULL,
	id       text   NOT NULL,
	customer text   NOT NULL,
	text     text   NOT NULL,
	call     text   NOT NULL,
	created  bigint NOT NULL,
	expires  bigint NOT NULL,
	PRIMARY KEY (tenant, id)
);
CREATE INDEX memory_customer ON atlas.memory (tenant, customer, created);
CREATE INDEX memory_list ON atlas.memory (tenant, created);
CREATE INDEX memory_expires ON atlas.memory (expires) WHERE expires > 0;

-- +goose StatementBegin
-- Deletes memories of a tenant under the lock of its row, so that the count stays right: by 'id' and by
-- 'customer' the one of that name or of whom it is, by 'expiry' at most so many that are past theirs.
CREATE FUNCTION atlas.memory_delete(of_tenant text, by_what text, name text, most bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
	now bigint;
BEGIN
	PERFORM 1 FROM atlas.tenant t WHERE t.tenant = of_tenant FOR UPDATE;
	now := atlas.now_ns();
	IF by_what = 'id' THEN
		DELETE FROM atlas.memory m WHERE m.tenant = of_tenant AND m.id = name AND (m.expires = 0 OR m.expires > now);
	ELSIF by_what = 'customer' THEN
		DELETE FROM atlas.memory m WHERE m.tenant = of_tenant AND m.customer = name;
	ELSIF by_what = 'expiry' THEN
		DELETE FROM atlas.memory m WHERE (m.tenant, m.id) IN (SELECT e.tenant, e.id FROM atlas.memory e
			WHERE e.tenant = of_tenant AND e.expires > 0 AND e.expires <= now LIMIT most);
	END IF;
	GET DIAGNOSTICS n = ROW_COUNT;
	UPDATE atlas.tenant t SET memories = t.memories - n WHERE t.tenant = of_tenant AND n > 0;
	RETURN n;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Stores m, unless its id is taken; false where the limit is reached.
CREATE FUNCTION atlas.memory_add(m atlas.memory, most bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
	now bigint;
	there bigint;
BEGIN
	INSERT INTO atlas.tenant AS t (tenant) VALUES (m.tenant) ON CONFLICT (tenant) DO UPDATE SET memories = t.memories
		RETURNING t.memories INTO n;
	now := atlas.now_ns();
	SELECT p.expires INTO there FROM atlas.memory p WHERE p.tenant = m.tenant AND p.id = m.id;
	IF FOUND THEN
		IF there = 0 OR there > now THEN
			RETURN true;
		END IF;
		DELETE FROM atlas.memory p WHERE p.tenant = m.tenant AND p.id = m.id;
		n := n - 1;
	ELSIF n >= most THEN
		n := n - atlas.memory_delete(m.tenant, 'expiry', NULL, 9223372036854775807);
		IF n >= most THEN
			RETURN false;
		END IF;
	END IF;
	INSERT INTO atlas.memory SELECT m.*;
	UPDATE atlas.tenant t SET memories = n + 1 WHERE t.tenant = m.tenant;
	RETURN true;
END $$;
-- +goose StatementEnd

-- Spaces and keys are bytes: callers choose them.
CREATE TABLE atlas.kv (
	space   bytea  NOT NULL,
	key     bytea  NOT NULL,
	value   bytea  NOT NULL,
	version bigint NOT NULL,
	expires bigint NOT NULL,
	PRIMARY KEY (space, key)
);
CREATE INDEX kv_expires ON atlas.kv (expires) WHERE expires > 0;

-- What a space holds. Every function that changes kv locks this row first.
CREATE TABLE atlas.kv_use (
	space bytea  PRIMARY KEY,
	n     bigint NOT NULL CHECK (n >= 0),
	bytes bigint NOT NULL CHECK (bytes >= 0)
);

-- +goose StatementBegin
-- Deletes at most so many values of the space that are past their expiry.
CREATE FUNCTION atlas.kv_sweep(of_space bytea, most bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n_gone bigint;
	b_gone bigint;
	now bigint;
BEGIN
	PERFORM 1 FROM atlas.kv_use u WHERE u.space = of_space FOR UPDATE;
	now := atlas.now_ns();
	WITH gone AS (
		DELETE FROM atlas.kv k WHERE (k.space, k.key) IN (SELECT e.space, e.key FROM atlas.kv e
			WHERE e.space = of_space AND e.expires > 0 AND e.expires <= now LIMIT most)
		RETURNING length(k.value) AS size
	)
	SELECT count(*), coalesce(sum(size), 0) INTO n_gone, b_gone FROM gone;
	UPDATE atlas.kv_use u SET n = u.n - n_gone, bytes = u.bytes - b_gone WHERE u.space = of_space;
	DELETE FROM atlas.kv_use u WHERE u.space = of_space AND u.n = 0;
	RETURN n_gone;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Stores the value if the key's version is old_version. It returns next_version if it did, or had done
-- before; 0 if the version is another; -1 where a limit of the space is reached.
CREATE FUNCTION atlas.kv_set(of_space bytea, of_key bytea, old_version bigint, new_value bytea, new_expires bigint, next_version bigint,
	max_keys bigint, max_bytes bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	u atlas.kv_use;
	k atlas.kv;
	now bigint;
	there boolean;
	fresh boolean;
	grows bigint;
BEGIN
	INSERT INTO atlas.kv_use AS c (space, n, bytes) VALUES (of_space, 0, 0) ON CONFLICT (space) DO UPDATE SET n = c.n
		RETURNING * INTO u;
	now := atlas.now_ns();
	SELECT * INTO k FROM atlas.kv c WHERE c.space = of_space AND c.key = of_key;
	there := FOUND;
	fresh := there AND (k.expires = 0 OR k.expires > now);
	IF fresh AND k.version = next_version THEN
		RETURN next_version; -- asked again
	END IF;
	IF (CASE WHEN fresh THEN k.version ELSE 0 END) <> old_version THEN
		DELETE FROM atlas.kv_use c WHERE c.space = of_space AND c.n = 0;
		RETURN 0;
	END IF;
	IF there AND NOT fresh THEN
		DELETE FROM atlas.kv c WHERE c.space = of_space AND c.key = of_key;
		UPDATE atlas.kv_use c SET n = c.n - 1, bytes = c.bytes - length(k.value) WHERE c.space = of_space RETURNING * INTO u;
	END IF;
	grows := length(new_value) - (CASE WHEN fresh THEN length(k.value) ELSE 0 END);
	IF (u.n + (CASE WHEN fresh THEN 0 ELSE 1 END) > max_keys OR u.bytes + grows > max_bytes) AND (grows > 0 OR NOT fresh) THEN
		PERFORM atlas.kv_sweep(of_space, 9223372036854775807);
		INSERT INTO atlas.kv_use AS c (space, n, bytes) VALUES (of_space, 0, 0) ON CONFLICT (space) DO UPDATE SET n = c.n
			RETURNING * INTO u;
		IF u.n + (CASE WHEN fresh THEN 0 ELSE 1 END) > max_keys OR u.bytes + grows > max_bytes THEN
			DELETE FROM atlas.kv_use c WHERE c.space = of_space AND c.n = 0;
			RETURN -1;
		END IF;
	END IF;
	INSERT INTO atlas.kv AS c VALUES (of_space, of_key, new_value, next_version, new_expires)
		ON CONFLICT (space, key) DO UPDATE SET value = excluded.value, version = excluded.version, expires = excluded.expires;
	UPDATE atlas.kv_use c SET n = c.n + (CASE WHEN fresh THEN 0 ELSE 1 END), bytes = c.bytes + grows WHERE c.space = of_space;
	RETURN next_version;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Deletes the value if its version is old_version.
CREATE FUNCTION atlas.kv_delete(of_space bytea, of_key bytea, old_version bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	size bigint;
BEGIN
	PERFORM 1 FROM atlas.kv_use u WHERE u.space = of_space FOR UPDATE;
	DELETE FROM atlas.kv k WHERE k.space = of_space AND k.key = of_key AND k.version = old_version
		AND (k.expires = 0 OR k.expires > atlas.now_ns()) RETURNING length(k.value) INTO size;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	UPDATE atlas.kv_use u SET n = u.n - 1, bytes = u.bytes - size WHERE u.space = of_space;
	DELETE FROM atlas.kv_use u WHERE u.space = of_space AND u.n = 0;
	RETURN true;
END $$;
-- +goose StatementEnd

-- Nobody but who is granted it below (Migrate does) touches any of this.
REVOKE ALL ON ALL TABLES IN SCHEMA atlas FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA atlas FROM PUBLIC;
