package pgvector

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
)

// batch is how many documents are embedded and sent at once.
const batch = 64

// Load implements source.Loader with data.Documents, as the tables' owner (load_dsn), in one
// transaction. If the tenant has vectors of another embedder, all of its documents are embedded anew.
func (x *Index) Load(ctx context.Context, tenant atlas.TenantID, data source.Data) error {
	if err := x.open(); err != nil {
		return err
	}
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return atlas.Errorf(atlas.CodeInvalidArguments, err, "")
	}
	if len(data.Documents) == 0 {
		return nil
	}
	docs, err := x.documents(data.Documents)
	if err != nil {
		return err
	}
	if err := x.gate.Check(ctx); err != nil {
		return err
	}
	conn, err := x.cfg.Own(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // its work is committed, or not
	s, err := x.shape(ctx)
	if err != nil {
		return err
	}
	if s.Partitioned {
		if err := x.partition(ctx, conn, tenant); err != nil {
			return pgrls.Failure(ctx, err)
		}
	}
	return x.cfg.As(ctx, conn, tenant, func(tx pgx.Tx) error {
		l := loader{x: x, tx: tx, tenant: tenant, table: pgrls.Identifier(x.cfg.Schema, x.cfg.Table)}
		if err := l.begin(ctx); err != nil {
			return err
		}
		if err := l.again(ctx); err != nil {
			return err
		}
		for len(docs) > 0 {
			n := min(batch, len(docs))
			if err := l.put(ctx, docs[:n]); err != nil {
				return err
			}
			docs = docs[n:]
		}
		if s.Comment == comment(x.embed) {
			return nil
		}
		_, err := tx.Exec(ctx, "COMMENT ON TABLE "+l.table+" IS "+pgrls.Literal(comment(x.embed)))
		return err
	})
}

// documents checks documents, and keeps the last of each id.
func (x *Index) documents(in []source.Document) ([]source.Document, error) {
	last := map[string]int{}
	for i, d := range in {
		if d.ID == "" {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a document has no id")
		}
		if len(d.Title)+len(d.Body) > x.cfg.MaxDocumentBytes {
			return nil, atlas.Errorf(atlas.CodeTooLarge, nil, "a document is larger than the limit").
				With("id", d.ID).With("limit_bytes", x.cfg.MaxDocumentBytes)
		}
		if _, err := source.Attributes(d); err != nil {
			return nil, err
		}
		last[d.ID] = i
	}
	out := make([]source.Document, 0, len(last))
	for i, d := range in {
		if last[d.ID] == i {
			out = append(out, d)
		}
	}
	return out, nil
}

// partition makes the tenant's partition if it is missing. Nobody is granted anything on it: it is
// read through the table, under the table's policy; and it is under forced row-level security
// without a policy itself, so that nothing can be read or written past the table.
func (x *Index) partition(ctx context.Context, conn *pgx.Conn, tenant atlas.TenantID) error {
	h := sha256.Sum256([]byte(tenant)) // a tenant's id may be longer than what is left of a name
	part := pgrls.Identifier(x.cfg.Schema, x.cfg.Table+"_t_"+hex.EncodeToString(h[:8]))
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range []string{
			"SELECT pg_advisory_xact_lock(hashtextextended(" + pgrls.Literal("atlas migrate "+pgrls.Identifier(x.cfg.Schema, x.cfg.Table)) + ", 0))",
			"CREATE TABLE IF NOT EXISTS " + part + " PARTITION OF " + pgrls.Identifier(x.cfg.Schema, x.cfg.Table) +
				" FOR VALUES IN (" + pgrls.Literal(string(tenant)) + ")",
			"ALTER TABLE " + part + " ENABLE ROW LEVEL SECURITY",
			"ALTER TABLE " + part + " FORCE ROW LEVEL SECURITY",
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

// A loader loads in one transaction of one tenant.
type loader struct {
	x      *Index
	tx     pgx.Tx
	tenant atlas.TenantID
	table  string
}

// begin waits for other loaders of the tenant, and finds the extension.
func (l loader) begin(ctx context.Context) error {
	path := pgrls.Identifier(l.x.cfg.Schema)
	if e := l.x.cfg.Extensions; e != "" {
		path += ", " + pgrls.Identifier(e)
	}
	if _, err := l.tx.Exec(ctx, "SET LOCAL search_path = "+path); err != nil {
		return err
	}
	_, err := l.tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "atlas load "+l.table+" "+string(l.tenant))
	return err
}

// again embeds the documents anew whose vectors are from another embedder.
func (l loader) again(ctx context.Context) error {
	n := 0
	for {
		rows, err := l.tx.Query(ctx, "SELECT id, title, body FROM "+l.table+" WHERE tenant_id = $1 AND embedder <> $2 ORDER BY id LIMIT $3",
			string(l.tenant), l.x.embed.ID(), batch)
		if err != nil {
			return err
		}
		docs, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (source.Document, error) {
			var d source.Document
			return d, r.Scan(&d.ID, &d.Title, &d.Body)
		})
		if err != nil {
			return err
		}
		if len(docs) == 0 {
			if n > 0 {
				l.x.log.InfoContext(ctx, "embedded documents anew for another embedder", "tenant", string(l.tenant), "documents", n)
			}
			return nil
		}
		vectors, err := l.embed(ctx, docs)
		if err != nil {
			return err
		}
		var b pgx.Batch
		for i, d := range docs {
			b.Queue("UPDATE "+l.table+" SET embedder = $3, embedding = $4::vector WHERE tenant_id = $1 AND id = $2", string(l.tenant), d.ID, l.x.embed.ID(), vectors[i])
		}
		if err := l.tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		n += len(docs)
	}
}

// put embeds documents and stores them in place of those of the same ids.
func (l loader) put(ctx context.Context, docs []source.Document) error {
	vectors, err := l.embed(ctx, docs)
	if err != nil {
		return err
	}
	var b pgx.Batch
	for i, d := range docs {
		attrs, err := source.Attributes(d)
		if err != nil {
			return err
		}
		text, err := json.Marshal(attrs)
		if err != nil {
			return err
		}
		b.Queue("INSERT INTO "+l.table+` (tenant_id, id, embedder, title, body, url, attrs, embedding) VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8::vector)
			ON CONFLICT (tenant_id, id) DO UPDATE SET embedder = excluded.embedder, title = excluded.title, body = excluded.body, url = excluded.url,
				attrs = excluded.attrs, embedding = excluded.embedding`,
			string(l.tenant), d.ID, l.x.embed.ID(), d.Title, d.Body, d.URL, string(text), vectors[i])
	}
	return l.tx.SendBatch(ctx, &b).Close()
}

// embed returns the documents' vectors as text; nil for those that nothing can be found by.
func (l loader) embed(ctx context.Context, docs []source.Document) ([]any, error) {
	texts := make([]string, len(docs))
	for i, d := range docs {
		texts[i] = source.EmbeddedText(d.Title, d.Body)
	}
	vs, err := source.EmbedAll(ctx, l.x.embed, texts)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(vs))
	for i, v := range vs {
		if v != nil {
			out[i] = vectorText(v)
		}
	}
	return out, nil
}
