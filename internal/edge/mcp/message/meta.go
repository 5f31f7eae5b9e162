package message

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
)

const (
	maxBudget     = time.Hour
	maxExpected   = 64
	maxKey        = 255
	maxTraceState = 512 // W3C Trace Context section 3.3.1.5
)

// A Meta is what a request's _meta says, as far as Atlas asks. Its byte slices are parts of the
// message.
type Meta struct {
	Present  bool
	Version  []byte         // the revision; nil if there is none
	Client   atlas.Client   // what the client can do; meaningful if HasCaps
	HasCaps  bool           // its capabilities are there, and of the right form
	BadInfo  bool           // the client's name is there, and not of the right form
	LogLevel atlas.LogLevel // least severe messages for the client's log; empty for none
	Progress []byte         // token, as written, that asks for progress; nil for none

	traceParent, traceState []byte // decoded
	key, budget             []byte // as written
}

func (m *Meta) member(s *scanner, key []byte) *Error {
	raw, err := s.raw(true)
	if err != nil {
		return err
	}
	isText := raw[0] == '"'
	switch string(key) {
	case metaVersion:
		if isText {
			m.Version = unquote(raw)
		}
	case metaClient:
		m.BadInfo = !goodInfo(raw)
	case metaCapabilities:
		m.Client, m.HasCaps = ReadCapabilities(raw)
	case metaLogLevel:
		if isText {
			m.LogLevel = logLevel(unquote(raw))
		}
	case metaProgressToken:
		if isID(raw) {
			m.Progress = raw
		}
	case metaTraceParent:
		if isText {
			m.traceParent = unquote(raw)
		}
	case metaTraceState:
		if isText {
			m.traceState = unquote(raw)
		}
	case metaIdempotencyKey:
		m.key = raw
	case metaBudget:
		m.budget = raw
	}
	return nil
}

// ReadMeta reads a _meta that was decoded elsewhere.
func ReadMeta(meta map[string]any) Meta {
	var m Meta
	if len(meta) == 0 {
		return m
	}
	raw, err := json.Marshal(meta)
	if err != nil {
		return m // what was decoded from JSON can be encoded
	}
	s := scanner{b: raw}
	m.Present = true
	if s.members(true, func(key []byte) *Error { return m.member(&s, key) }) != nil {
		return Meta{Present: true}
	}
	return m
}

// goodInfo reports whether raw can be the name of a client's program.
func goodInfo(raw []byte) bool {
	s := scanner{b: raw}
	good := s.next() == '{'
	return good && s.members(false, func(key []byte) *Error {
		if c := s.next(); c != '"' && c != 'n' && slices.ContainsFunc(infoTexts, func(name []byte) bool { return bytes.EqualFold(name, key) }) {
			good = false // neither text nor null
		}
		return s.value(false)
	}) == nil && good
}

// infoTexts are the members of a program's name that are texts. The SDK takes them in any case.
var infoTexts = [][]byte{[]byte("name"), []byte("title"), []byte("version"), []byte("description")}

// ReadCapabilities reads the capabilities that a client declares, in _meta or by initialize. It
// reports false if they are not of the form of capabilities.
func ReadCapabilities(raw []byte) (c atlas.Client, ok bool) {
	s := scanner{b: raw}
	if s.next() != '{' {
		return c, false
	}
	ok = true
	err := s.members(false, func(key []byte) *Error {
		what := string(key)
		v, err := s.raw(false)
		if err != nil {
			return err
		}
		if string(v) == "null" {
			return nil
		}
		switch what {
		case "elicitation":
			if ok = ok && v[0] == '{'; ok {
				c.Elicit, c.ElicitURL = elicitModes(v)
			}
		case "sampling":
			ok = ok && v[0] == '{'
			c.Sample = true
		case "roots":
			ok = ok && v[0] == '{'
			c.Roots = true
		case "extensions":
			if ok = ok && v[0] == '{'; ok {
				c.Tasks, _ = has(v, TasksExtension, "")
			}
		}
		return nil
	})
	if err != nil || !ok {
		return atlas.Client{}, false
	}
	return c, true
}

// elicitModes reads the modes of elicitation. A client that names none can do forms: there was
// nothing else before 2025-11-25.
func elicitModes(raw []byte) (form, url bool) {
	form, url = has(raw, "form", "url")
	return form || !url, url
}

// has reports whether an object has the keys, with values that are not null.
func has(raw []byte, key1, key2 string) (has1, has2 bool) {
	if len(raw) == 2 { // {}, the most frequent
		return false, false
	}
	s := scanner{b: raw}
	_ = s.members(false, func(key []byte) *Error { // scanned before
		is1, is2 := string(key) == key1, string(key) == key2
		v, err := s.raw(false)
		if err == nil && string(v) != "null" {
			has1, has2 = has1 || is1, has2 || is2
		}
		return err
	})
	return has1, has2
}

// levels are the log levels, least severe first.
var levels = [...]atlas.LogLevel{
	atlas.LogDebug, atlas.LogInfo, atlas.LogNotice, atlas.LogWarning,
	atlas.LogError, atlas.LogCritical, atlas.LogAlert, atlas.LogEmergency,
}

func logLevel(name []byte) atlas.LogLevel {
	for _, l := range levels {
		if string(l) == string(name) {
			return l
		}
	}
	return ""
}

// Reaches reports whether a message of the level is at least as severe as least. An unknown level is
// the least severe.
func Reaches(level, least atlas.LogLevel) bool {
	rank := func(l atlas.LogLevel) int {
		for i, k := range levels {
			if k == l {
				return i
			}
		}
		return 0
	}
	return rank(level) >= rank(least)
}

// Fill puts into call what _meta says for the pipeline. What is wrong in Atlas's own keys is a failure
// that names the key. A trace context that is wrong is left out (W3C Trace Context section 4.3: the
// trace is started anew), because a caller's broken tracer must not cost it its calls.
func (m *Meta) Fill(call *atlas.Call) *atlas.Error {
	if validTraceParent(m.traceParent) {
		call.TraceParent = string(m.traceParent)
		if len(m.traceState) <= maxTraceState && printable(m.traceState) {
			call.TraceState = string(m.traceState)
		}
	}
	if m.key != nil {
		var key []byte
		if m.key[0] == '"' {
			key = unquote(m.key)
		}
		if len(key) == 0 || len(key) > maxKey || !printable(key) {
			return badMeta(metaIdempotencyKey, "must be a string of 1 to 255 printable ASCII characters")
		}
		call.IdempotencyKey = string(key)
	}
	if m.budget != nil {
		b, fault := readBudget(m.budget)
		if fault != "" {
			return badMeta(metaBudget, fault)
		}
		call.Budget = b
	}
	return nil
}

func badMeta(key, fault string) *atlas.Error {
	return atlas.Errorf(atlas.CodeInvalidArguments, nil, fmt.Sprintf("_meta %q %s", key, fault)).With("meta_key", key)
}

// readBudget reads {total_ms, reserve_ms, expected}. The fault is empty if there is none.
func readBudget(raw []byte) (b atlas.Budget, fault string) {
	if raw[0] != '{' {
		return b, "must be an object"
	}
	s := scanner{b: raw}
	// The first fault in the order of the keys in the message is told.
	err := s.members(true, func(key []byte) *Error {
		k := string(key)
		v, err := s.raw(true)
		if err != nil || fault != "" {
			return err
		}
		ok := false
		switch k {
		case "total_ms":
			b.Total, ok = millis(v)
		case "reserve_ms":
			b.Reserve, ok = millis(v)
		case "expected":
			b.Expected, ok = names(v)
		default:
			fault = "has a key other than total_ms, reserve_ms and expected"
			return nil
		}
		if !ok {
			fault = k + " is not valid: total_ms and reserve_ms are whole milliseconds up to one hour, expected is a list of tool names"
		}
		return nil
	})
	switch {
	case err != nil:
		return atlas.Budget{}, "must be an object without a key that appears twice"
	case fault != "":
		return atlas.Budget{}, fault
	case b.Total <= 0: // a budget of nothing must not read as no budget
		return atlas.Budget{}, "total_ms must be at least 1"
	}
	return b, ""
}

func millis(raw []byte) (time.Duration, bool) {
	var f float64
	if c := raw[0]; c != '-' && (c < '0' || c > '9') || json.Unmarshal(raw, &f) != nil {
		return 0, false
	}
	if f < 0 || f > float64(maxBudget/time.Millisecond) || f != math.Trunc(f) {
		return 0, false
	}
	return time.Duration(f) * time.Millisecond, true
}

func names(raw []byte) ([]string, bool) {
	var list []*string
	if raw[0] != '[' || json.Unmarshal(raw, &list) != nil || len(list) > maxExpected {
		return nil, false
	}
	out := make([]string, 0, len(list))
	for _, s := range list {
		if s == nil || *s == "" || len(*s) > maxName {
			return nil, false
		}
		out = append(out, *s)
	}
	return out, true
}

func printable(s []byte) bool {
	for _, c := range s {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// validTraceParent checks the form of version 00 (W3C Trace Context section 3.2): lower-case hex,
// and neither id all zeros. Longer forms belong to versions that do not exist yet.
func validTraceParent(s []byte) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || string(s[:2]) == "ff" {
		return false
	}
	for i, c := range s {
		if i == 2 || i == 35 || i == 52 {
			continue
		}
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return !zeros(s[3:35]) && !zeros(s[36:52])
}

func zeros(s []byte) bool { return len(bytes.Trim(s, "0")) == 0 }
