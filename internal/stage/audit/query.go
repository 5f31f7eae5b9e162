package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Filter picks records. Empty fields pick all.
type Filter struct {
	Tenant    atlas.TenantID // exactly this tenant; records of the log itself have none
	Caller    string
	Tool      string
	Status    string
	Code      atlas.Code
	Kind      string
	RequestID string    // of the record or its parent
	Since     time.Time // at or after
	Until     time.Time // before
	Limit     int       // the newest so many; 0 means all
}

func (f Filter) match(r *atlas.AuditRecord) bool {
	return (f.Tenant == "" || r.Tenant == f.Tenant) &&
		(f.Caller == "" || r.Caller == f.Caller) &&
		(f.Tool == "" || r.Tool == f.Tool) &&
		(f.Status == "" || r.Status == f.Status) &&
		(f.Code == "" || r.ErrorCode == f.Code) &&
		(f.Kind == "" || r.Kind == f.Kind) &&
		(f.RequestID == "" || r.RequestID == f.RequestID || r.ParentID == f.RequestID) &&
		(f.Since.IsZero() || !r.Time.Before(f.Since)) &&
		(f.Until.IsZero() || r.Time.Before(f.Until))
}

// Query yields the matching records of the log at the path, oldest first. A line that cannot be read
// yields an error that says where, and the search goes on. The log may be in use. Query trusts the
// filter: who may see which tenant is for the caller to decide.
func Query(ctx context.Context, path string, f Filter) iter.Seq2[atlas.AuditRecord, error] {
	return func(yield func(atlas.AuditRecord, error) bool) {
		parts, err := quiesce(ctx, path)
		if err != nil {
			yield(atlas.AuditRecord{}, fmt.Errorf("audit: %w", err))
			return
		}
		defer closeParts(parts)
		if f.Limit <= 0 {
			scan(ctx, parts, f, yield)
			return
		}
		newest := make([]atlas.AuditRecord, 0, min(f.Limit, 1024))
		next, stopped := 0, false
		scan(ctx, parts, f, func(r atlas.AuditRecord, err error) bool {
			switch {
			case err != nil:
				stopped = !yield(r, err)
			case len(newest) < f.Limit:
				newest = append(newest, r)
			default:
				newest[next] = r
				next = (next + 1) % f.Limit
			}
			return !stopped
		})
		for i := range newest {
			if stopped || !yield(newest[(next+i)%len(newest)], nil) {
				return
			}
		}
	}
}

func scan(ctx context.Context, parts []part, f Filter, yield func(atlas.AuditRecord, error) bool) {
	for _, p := range parts {
		r := bufio.NewReaderSize(io.NewSectionReader(p.f, 0, p.size), maxLine)
		for line := 1; ; line++ {
			if ctx.Err() != nil {
				yield(atlas.AuditRecord{}, ctx.Err())
				return
			}
			data, err := r.ReadSlice('\n')
			if errors.Is(err, io.EOF) && len(data) == 0 {
				break
			}
			var rec atlas.AuditRecord
			switch {
			case errors.Is(err, bufio.ErrBufferFull):
				err = errors.Join(errNoLink, skipLine(r))
			case errors.Is(err, io.EOF):
				err = fmt.Errorf("%s: %w", ReasonTorn, err)
			case err == nil:
				err = json.Unmarshal(data, &rec)
			}
			if err != nil {
				if !yield(atlas.AuditRecord{}, fmt.Errorf("audit: %s:%d: %w", p.name, line, err)) {
					return
				}
				if errors.Is(err, io.EOF) {
					break
				}
				continue
			}
			if f.match(&rec) && !yield(rec, nil) {
				return
			}
		}
	}
}
