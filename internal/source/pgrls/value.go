package pgrls

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// appendArg appends a parameter in the text form that Postgres reads for whatever type it infers:
// an integral number has no fraction, however it was written.
func appendArg(dst []byte, v any) ([]byte, bool) {
	switch v := v.(type) {
	case nil:
		return dst, true
	case string:
		return append(dst, v...), true
	case []byte:
		return append(dst, v...), true
	case bool:
		return strconv.AppendBool(dst, v), true
	case int:
		return strconv.AppendInt(dst, int64(v), 10), true
	case int64:
		return strconv.AppendInt(dst, v, 10), true
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return dst, false
		}
		if integral(v) {
			return strconv.AppendInt(dst, int64(v), 10), true
		}
		return strconv.AppendFloat(dst, v, 'g', -1, 64), true
	case json.Number:
		if f, err := v.Float64(); err == nil && integral(f) && strings.ContainsAny(v.String(), ".eE") {
			return strconv.AppendInt(dst, int64(f), 10), true
		} else if err != nil {
			return dst, false
		}
		return append(dst, v...), true // all its digits: the column may be a numeric
	}
	return dst, false
}

func integral(f float64) bool { return f == math.Trunc(f) && math.Abs(f) < 1<<53 }

// Value turns a value in Postgres's text form into what callers get: nil, string, int64, float64 or
// bool. It also returns about how many bytes it is.
//
//   - smallint, integer, bigint: int64; real, double precision: float64 (nil for NaN and infinity,
//     for which JSON has no word); boolean: bool.
//   - numeric: int64 if it has no fraction and fits; float64 if that tells all of its digits (15);
//     else a string, so that no digit is lost silently.
//   - timestamp with time zone, timestamp: RFC 3339, the second without an offset; date: 2006-01-02.
//   - bytea: base64. Everything else, uuid, json, arrays, enums, intervals: Postgres's text.
func Value(oid uint32, raw []byte) (any, int) {
	if raw == nil {
		return nil, 4
	}
	switch oid {
	case pgtype.Int8OID, pgtype.Int4OID, pgtype.Int2OID, pgtype.OIDOID:
		if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
			return n, 8
		}
	case pgtype.Float8OID, pgtype.Float4OID:
		bits := 64
		if oid == pgtype.Float4OID {
			bits = 32
		}
		if f, err := strconv.ParseFloat(string(raw), bits); err == nil {
			if math.IsNaN(f) || math.IsInf(f, 0) {
				return nil, 4
			}
			if bits == 32 { // 0.1 is meant, not 0.10000000149011612
				f, _ = strconv.ParseFloat(string(raw), 64)
			}
			return f, 8
		}
	case pgtype.BoolOID:
		return string(raw) == "t", 5
	case pgtype.NumericOID:
		return numeric(string(raw))
	case pgtype.TimestamptzOID:
		return timestamp(string(raw), "2006-01-02 15:04:05.999999999Z07", time.RFC3339Nano)
	case pgtype.TimestampOID:
		return timestamp(string(raw), "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999")
	case pgtype.ByteaOID:
		if b, err := hex.DecodeString(strings.TrimPrefix(string(raw), `\x`)); err == nil {
			s := base64.StdEncoding.EncodeToString(b)
			return s, len(s)
		}
	}
	return string(raw), len(raw)
}

func numeric(s string) (any, int) {
	switch s {
	case "NaN", "Infinity", "-Infinity":
		return nil, 4
	}
	whole, fraction, _ := strings.Cut(s, ".")
	if strings.Trim(fraction, "0") == "" {
		if n, err := strconv.ParseInt(whole, 10, 64); err == nil {
			return n, 8
		}
	}
	digits := strings.TrimLeft(strings.TrimPrefix(whole, "-")+fraction, "0")
	if fraction != "" && len(strings.TrimRight(digits, "0")) <= 15 {
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return f, 8
		}
	}
	return s, len(s)
}

// timestamp turns Postgres's ISO style into RFC 3339's. What Go cannot read, such as infinity and
// years before Christ, stays as it is.
func timestamp(s, layout, out string) (any, int) {
	if t, err := time.Parse(layout, s); err == nil {
		s = t.Format(out)
	}
	return s, len(s)
}
