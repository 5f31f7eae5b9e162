-- What the checks look at, as one JSON object. $1: schemas of the search path, the tables' first;
-- $2: names of the exposed tables; $3: the tenant setting; $4: names of functions of pg_catalog.
WITH RECURSIVE
me AS ( -- every role whose rights the session has or can take
	SELECT r.oid, r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolreplication,
		r.rolname IN (current_user, session_user) AS self
	FROM pg_roles r
	WHERE r.rolname IN (current_user, session_user)
		OR pg_has_role(current_user, r.oid, 'MEMBER') OR pg_has_role(session_user, r.oid, 'MEMBER')
),
exposed AS ( -- what is named, what lies under views of it, and parts that can be read by themselves
	SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname = ($1::text[])[1] AND c.relname = ANY ($2::text[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
	UNION
	SELECT u.oid FROM exposed e CROSS JOIN LATERAL (
		SELECT d.refobjid AS oid FROM pg_rewrite w
		JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
		WHERE w.ev_class = e.oid AND d.refobjid <> e.oid
		UNION ALL
		SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = e.oid AND has_any_column_privilege(i.inhrelid, 'SELECT')
	) u JOIN pg_class c ON c.oid = u.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
)
SELECT json_build_object(
	'version', current_setting('server_version_num')::int,
	'database', current_database(),
	'user', current_user,
	'session_user', session_user,
	'tenant', coalesce(current_setting($3::text, true), ''),
	'row_security', current_setting('row_security') = 'on',
	'temp_files', current_setting('temp_file_limit'),
	'roles', (SELECT json_agg(json_build_object('name', rolname, 'self', self, 'super', rolsuper,
		'bypass', rolbypassrls, 'create_role', rolcreaterole, 'replication', rolreplication) ORDER BY self DESC, rolname) FROM me),
	'schemas', (SELECT json_agg(json_build_object('name', n.nspname,
			'owner', (SELECT m.rolname FROM me m WHERE m.oid = n.nspowner),
			'usage', has_schema_privilege(n.oid, 'USAGE'),
			'create', (SELECT json_agg(coalesce(m.rolname, '') ORDER BY 1)
				FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a LEFT JOIN me m ON m.oid = a.grantee
				WHERE a.privilege_type = 'CREATE' AND (a.grantee = 0 OR m.oid IS NOT NULL))))
		FROM pg_namespace n WHERE n.nspname = ANY ($1::text[])),
	'tables', (SELECT json_agg(json_build_object(
			'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
			'named', n.nspname = ($1::text[])[1] AND c.relname = ANY ($2::text[]),
			'owner', (SELECT m.rolname FROM me m WHERE m.oid = c.relowner),
			'enabled', c.relrowsecurity, 'forced', c.relforcerowsecurity, 'active', row_security_active(c.oid),
			'readable', has_any_column_privilege(c.oid, 'SELECT'),
			'writes', (SELECT json_agg(DISTINCT json_build_array(a.privilege_type, coalesce(m.rolname, ''))::text)
				FROM aclexplode(c.relacl) a LEFT JOIN me m ON m.oid = a.grantee
				WHERE a.privilege_type <> 'SELECT' AND a.grantee <> c.relowner AND (a.grantee = 0 OR m.oid IS NOT NULL)),
			'invoker', coalesce((SELECT o.option_value::boolean FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'security_invoker'), false),
			'policies', (SELECT json_agg(json_build_object('name', p.polname, 'permissive', p.polpermissive,
					'using', coalesce(pg_get_expr(p.polqual, p.polrelid), ''),
					'columns', (SELECT json_agg(DISTINCT at.attname) FROM pg_depend d
						JOIN pg_attribute at ON at.attrelid = d.refobjid AND at.attnum = d.refobjsubid
						WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
							AND d.refobjid = c.oid AND d.refobjsubid > 0),
					'calls', EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass),
					'loose', (SELECT json_agg(DISTINCT co.collname) FROM pg_depend d
						LEFT JOIN pg_attribute at ON d.refclassid = 'pg_class'::regclass AND at.attrelid = d.refobjid AND at.attnum = d.refobjsubid
						JOIN pg_collation co ON co.oid = CASE d.refclassid WHEN 'pg_collation'::regclass THEN d.refobjid ELSE at.attcollation END
						WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND NOT co.collisdeterministic)) ORDER BY p.polname)
				FROM pg_policy p WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*')
					AND EXISTS (SELECT 1 FROM unnest(p.polroles) r WHERE r = 0 OR r IN (SELECT oid FROM me))),
			'unique', (SELECT json_agg(json_build_object('name', ic.relname, 'columns',
					(SELECT json_agg(at.attname) FROM pg_attribute at WHERE at.attrelid = c.oid AND at.attnum = ANY (i.indkey))))
				FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisunique),
			'foreign', (SELECT json_agg(json_build_object('name', k.conname, 'columns',
					(SELECT json_agg(at.attname) FROM pg_attribute at WHERE at.attrelid = c.oid AND at.attnum = ANY (k.conkey))))
				FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f')
		) ORDER BY n.nspname, c.relname)
		FROM exposed e JOIN pg_class c ON c.oid = e.oid JOIN pg_namespace n ON n.oid = c.relnamespace),
	'others', (SELECT json_agg(o.name) FROM (
		SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_%'
			AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid)
			AND c.oid NOT IN (SELECT oid FROM exposed) ORDER BY 1 LIMIT 20) o),
	'functions', (SELECT json_agg(json_build_object('name', f.oid::regprocedure::text, 'from', f.grantees, 'why', f.why) ORDER BY f.oid) FROM (
		SELECT p.oid, CASE
				WHEN n.nspname = 'pg_catalog' THEN p.proname::text
				WHEN x.extname IS NOT NULL THEN 'extension ' || x.extname
				WHEN p.prosecdef THEN 'definer'
				ELSE 'untrusted' END AS why,
			(SELECT json_agg(DISTINCT coalesce(m.rolname, ''))
				FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a LEFT JOIN me m ON m.oid = a.grantee
				WHERE a.privilege_type = 'EXECUTE' AND (a.grantee = 0 OR m.oid IS NOT NULL)) AS grantees
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
		LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		LEFT JOIN pg_extension x ON x.oid = d.refobjid AND x.extname IN ('dblink', 'adminpack', 'postgres_fdw', 'file_fdw')
		WHERE (n.nspname = 'pg_catalog' AND p.proname = ANY ($4::text[])
				OR n.nspname NOT IN ('pg_catalog', 'information_schema')
					AND (x.extname IS NOT NULL OR p.prosecdef OR NOT l.lanpltrusted AND l.lanname NOT IN ('internal', 'c')))
			AND has_function_privilege(p.oid, 'EXECUTE')
			AND (n.nspname = 'pg_catalog' OR has_schema_privilege(n.oid, 'USAGE'))
	) f)
)::text
