package app

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// Memory says whether there are tools that remember things of customers.
type Memory struct {
	Enabled bool `yaml:"enabled"` // offers memory_find, memory_save and memory_forget
}

// memories is the state as the tools of memories see it.
type memories struct{ store state.Memories }

// memories returns where the tools of memories keep what they keep, or nil if there are to be none.
func (a *App) memories(cfg Memory) tool.Memories {
	if !cfg.Enabled {
		return nil
	}
	return memories{a.state}
}

// Save implements [tool.Memories].
func (m memories) Save(ctx context.Context, tenant atlas.TenantID, n tool.Memory) error {
	return m.store.AddMemory(ctx, state.Memory{
		ID: n.ID, Tenant: tenant, Customer: n.Customer, Text: n.Text, Call: n.Call, Created: n.Created, Expires: n.Expires,
	})
}

// Find implements [tool.Memories].
func (m memories) Find(ctx context.Context, tenant atlas.TenantID, customer string, limit int) ([]tool.Memory, error) {
	list, err := m.store.FindMemories(ctx, tenant, customer, limit)
	if err != nil {
		return nil, err
	}
	out := make([]tool.Memory, len(list))
	for i, n := range list {
		out[i] = tool.Memory{ID: n.ID, Customer: n.Customer, Text: n.Text, Call: n.Call, Created: n.Created, Expires: n.Expires}
	}
	return out, nil
}

// Forget implements [tool.Memories].
func (m memories) Forget(ctx context.Context, tenant atlas.TenantID, customer string) (int, error) {
	return m.store.ForgetCustomer(ctx, tenant, customer)
}

// memoryCanaries are the memories as a proof of isolation sees them: a source in which it plants, for a
// customer of each document's id, what the document says.
type memoryCanaries struct{ memories }

// withMemories returns the samples with one of what is remembered. Its id is of a form that no other
// sample has, so that it is among those by which the tools are tried.
func withMemories(samples map[string]source.Data) map[string]source.Data {
	out := map[string]source.Data{}
	maps.Copy(out, samples)
	out[tool.MemorySource] = source.Data{Documents: []source.Document{{ID: "memory-of-990001", Body: "A sample of what is remembered."}}}
	return out
}

// Ping implements [source.Source].
func (memoryCanaries) Ping(context.Context) error { return nil }

// Close implements [source.Source].
func (memoryCanaries) Close() error { return nil }

// Load implements [source.Loader].
func (m memoryCanaries) Load(ctx context.Context, tenant atlas.TenantID, data source.Data) error {
	now := time.Now().UTC().Truncate(time.Microsecond)
	for _, d := range data.Documents {
		if _, err := m.Forget(ctx, tenant, d.ID); err != nil { // those of an earlier proof
			return err
		}
		if err := m.Save(ctx, tenant, tool.Memory{ID: "mem_" + d.ID, Customer: d.ID, Text: d.Body, Created: now, Expires: now.AddDate(0, 0, 30)}); err != nil {
			return err
		}
	}
	return nil
}

// MemoryRecord is one thing that is remembered of a customer, as operators see it.
type MemoryRecord = state.Memory

// Memories returns at most limit of the tenant's memories for the named operator, newest first: those of one
// customer, or of all if customer is empty. It works whether there are tools of memories or not. Nothing
// is shown that cannot be recorded.
func (a *App) Memories(ctx context.Context, by string, tenant atlas.TenantID, customer string, limit int) ([]MemoryRecord, error) {
	rec := a.memoryRecord("memory.find", by, tenant, customer)
	var list []MemoryRecord
	var err error
	if customer == "" {
		rec.Action = "memory.list"
		list, err = a.state.ListMemories(ctx, tenant, limit)
	} else {
		list, err = a.state.FindMemories(ctx, tenant, customer, limit)
	}
	if err := a.recordMemory(ctx, rec, err); err != nil {
		return nil, err
	}
	return list, nil
}

// ForgetCustomer deletes all that is remembered of the tenant's customer for the named operator and returns
// how much that was. What it is about to do is recorded first.
func (a *App) ForgetCustomer(ctx context.Context, by string, tenant atlas.TenantID, customer string) (int, error) {
	rec := a.memoryRecord("memory.forget", by, tenant, customer)
	intent := rec
	intent.Kind = "intent"
	if err := a.recordMemory(ctx, intent, nil); err != nil {
		return 0, err
	}
	n, err := a.state.ForgetCustomer(ctx, tenant, customer)
	a.forget(ctx, tenant) // of composed tools, which may show it
	return n, a.recordMemory(ctx, rec, err)
}

// memoryRecord is the record of an act on memories. It names the customer as the records of calls do, by
// the keyed hash of {"customer_id": …}: what is recorded stays when the customer is forgotten.
func (a *App) memoryRecord(action, by string, tenant atlas.TenantID, customer string) atlas.AuditRecord {
	rec := atlas.AuditRecord{
		Kind: "admin", RequestID: edge.NewRequestID(), Tenant: tenant, Caller: by, Transport: "cli", Action: action, Status: "ok",
	}
	if customer == "" {
		return rec
	}
	args, err := json.Marshal(map[string]string{"customer_id": customer})
	if err == nil {
		args, err = canonicalJSON(args)
	}
	if err != nil { // no text
		return rec
	}
	mac := hmac.New(sha256.New, a.auditKey)
	_, _ = mac.Write(args) // never fails
	rec.ArgsHash = "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
	return rec
}

// recordMemory records an act that ended with err, which it returns; or why it could not be recorded.
func (a *App) recordMemory(ctx context.Context, rec atlas.AuditRecord, err error) error {
	if err != nil {
		rec.Status, rec.ErrorCode = "error", atlas.CodeOf(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if aerr := a.auditLog.Record(ctx, rec); aerr != nil && err == nil {
		return atlas.Errorf(atlas.CodeAuditUnavailable, aerr, "the act could not be recorded")
	}
	return err
}
