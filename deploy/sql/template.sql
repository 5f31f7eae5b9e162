-- Makes a table of yours ready for Atlas: copy it, put your names in, run it as the table's owner.
-- README.md says why each line is there.

-- 1. Every row says whose it is.
ALTER TABLE invoices ADD COLUMN tenant_id text;
UPDATE invoices SET tenant_id = 'acme' WHERE tenant_id IS NULL; -- however you know it
ALTER TABLE invoices ALTER COLUMN tenant_id SET NOT NULL;

-- 2. Keys and references begin with the tenant.
ALTER TABLE invoices DROP CONSTRAINT invoices_pkey, ADD PRIMARY KEY (tenant_id, id);
ALTER TABLE invoices ADD FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id);

-- 3. Row-level security, for the owner too.
ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
ALTER TABLE invoices FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON invoices
	USING (tenant_id = current_setting('app.tenant_id', true))
	WITH CHECK (tenant_id = current_setting('app.tenant_id', true));

-- 4. Atlas may read, or read some columns of, the table. A view needs security_invoker.
GRANT SELECT ON invoices TO atlas_app;
-- GRANT SELECT (tenant_id, id, customer_id, total_cents) ON invoices TO atlas_app;
-- CREATE VIEW open_invoices WITH (security_invoker = true) AS SELECT … ; GRANT SELECT ON open_invoices TO atlas_app;
