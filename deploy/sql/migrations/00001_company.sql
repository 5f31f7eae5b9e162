-- The demo company. Every key begins with the tenant, so that ids of one tenant neither collide with
-- another's nor tell that they exist, and no reference crosses from one tenant to another.
--
-- Run by the owner of the schema. The run-time setting atlas.reader names the role that may read;
-- without it that is atlas_app.

-- +goose Up
CREATE TABLE customers (
	tenant_id  text NOT NULL,
	id         text NOT NULL,
	name       text,
	email      text,
	tier       text,
	dob        text,
	created_at text,
	PRIMARY KEY (tenant_id, id)
);

CREATE TABLE orders (
	tenant_id   text NOT NULL,
	id          text NOT NULL,
	customer_id text,
	status      text,
	total_cents bigint,
	currency    text,
	created_at  text,
	updated_at  text,
	note        text,
	PRIMARY KEY (tenant_id, id),
	FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id)
);
CREATE INDEX orders_customer ON orders (tenant_id, customer_id, created_at DESC);

CREATE TABLE order_items (
	tenant_id  text NOT NULL,
	id         text NOT NULL,
	order_id   text,
	sku        text,
	title      text,
	quantity   bigint,
	unit_cents bigint,
	PRIMARY KEY (tenant_id, id),
	FOREIGN KEY (tenant_id, order_id) REFERENCES orders (tenant_id, id)
);
CREATE INDEX order_items_order ON order_items (tenant_id, order_id);

CREATE TABLE documents (
	tenant_id  text NOT NULL,
	id         text NOT NULL,
	title      text,
	body       text,
	url        text,
	created_at text,
	PRIMARY KEY (tenant_id, id)
);

-- +goose StatementBegin
DO $$
DECLARE
	reader text := coalesce(nullif(current_setting('atlas.reader', true), ''), 'atlas_app');
	t      text;
BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), reader);
	FOREACH t IN ARRAY ARRAY['customers', 'orders', 'order_items', 'documents'] LOOP
		EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
		EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
		EXECUTE format($p$CREATE POLICY tenant ON %I
			USING (tenant_id = current_setting('app.tenant_id', true))
			WITH CHECK (tenant_id = current_setting('app.tenant_id', true))$p$, t);
		EXECUTE format('GRANT SELECT ON %I TO %I', t, reader);
	END LOOP;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE documents, order_items, orders, customers;
