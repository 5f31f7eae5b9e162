package elasticsearch

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// An object is a JSON object that we write.
type object = map[string]any

// A fieldType is how a field is indexed.
type fieldType string

const (
	textField    fieldType = "text"
	keywordField fieldType = "keyword"
	longField    fieldType = "long"
	doubleField  fieldType = "double"
	dateField    fieldType = "date"
	booleanField fieldType = "boolean"
)

var attributeTypes = []fieldType{keywordField, longField, doubleField, dateField, booleanField}

// The fields of a document as it is stored. Callers know none of them by these names.
const (
	tenantPath  = "tenant_id"
	idPath      = "id"      // the document's own id: _id holds the tenant, too
	titlePath   = "title"   //
	bodyPath    = "body"    //
	urlPath     = "url"     //
	createdPath = "created" // from the attribute created_at, if that is a date
	termsPath   = "attr"    // every attribute as a term (source.Term), for exact filters
	attrsPath   = "attrs"   // the attributes as they came; stored, not indexed
	typedPath   = "field"   // field.<name>: configured attributes by their type
)

// documentFields are the fields that every document has, by the names that callers know.
var documentFields = map[string]field{
	"title":      {titlePath, textField},
	"body":       {bodyPath, textField},
	"id":         {idPath, keywordField},
	"url":        {urlPath, keywordField},
	"created_at": {createdPath, dateField},
}

// A field is where a name of a query body leads to.
type field struct {
	path string
	kind fieldType
}

// longestKeyword is the most bytes of a term that the index is asked to hold: longer ones are held
// by their hash.
const longestKeyword = 8 << 10

// settings and mappings of an index that the driver makes. Words are stemmed, and accents do not
// count, whether they are written as one character or two; '-' and '_' end a word, so that
// "five-business-day" is found by "business". An id such as CUST-1001 is looked for as a phrase,
// which finds it whole and nothing else. The built-in pieces are the same in all servers.
func (c Config) creation() object {
	words := object{"type": textField, "analyzer": "atlas_text"}
	if c.Isolation == IsolationFilter && !c.SharedStatistics {
		words["similarity"] = "boolean"
	}
	typed := object{}
	for name, kind := range c.Attributes {
		property := object{"type": kind}
		switch fieldType(kind) {
		case keywordField:
			property["ignore_above"] = longestKeyword
		case dateField:
			property["format"] = "strict_date_optional_time"
		default:
		}
		typed[name] = property
	}
	mappings := object{
		"dynamic": "strict", // a field that nobody mapped could be mapped by what stands in it
		"properties": object{
			tenantPath:  object{"type": keywordField},
			idPath:      object{"type": keywordField, "ignore_above": longestKeyword},
			titlePath:   words,
			bodyPath:    words,
			urlPath:     object{"type": keywordField, "ignore_above": longestKeyword},
			createdPath: object{"type": dateField, "format": "strict_date_optional_time"},
			termsPath:   object{"type": keywordField},
			attrsPath:   object{"type": "object", "enabled": false},
			typedPath:   object{"type": "object", "dynamic": "strict", "properties": typed},
		},
	}
	if c.RouteByTenant {
		mappings["_routing"] = object{"required": true}
	}
	return object{
		"settings": object{
			"number_of_shards": c.Shards,
			"analysis": object{
				"char_filter": object{"atlas_marks": object{"type": "pattern_replace", "pattern": `[\u0300-\u036F]`, "replacement": ""}},
				"tokenizer":   object{"atlas_words": object{"type": "pattern", "pattern": `[^\p{L}\p{N}\p{M}]+`}},
				"filter":      object{"atlas_longest": object{"type": "truncate", "length": 512}}, // a term of 32 KiB would be refused
				"analyzer": object{"atlas_text": object{
					"type": "custom", "char_filter": []string{"atlas_marks"}, "tokenizer": "atlas_words",
					"filter": []string{"atlas_longest", "lowercase", "asciifolding", "porter_stem"},
				}},
			},
		},
		"mappings": mappings,
	}
}

// A property is what a mapping says of one field.
type property struct {
	Type        string              `json:"type"`
	Similarity  string              `json:"similarity"`
	Normalizer  string              `json:"normalizer"`
	Index       *bool               `json:"index"`
	DocValues   *bool               `json:"doc_values"`
	IgnoreAbove *int                `json:"ignore_above"`
	Properties  map[string]property `json:"properties"`
}

type mapping struct {
	Dynamic any `json:"dynamic"` // a string or a boolean
	Source  struct {
		Enabled  *bool    `json:"enabled"`
		Includes []string `json:"includes"`
		Excludes []string `json:"excludes"`
	} `json:"_source"`
	Routing struct {
		Required bool `json:"required"`
	} `json:"_routing"`
	Properties map[string]property        `json:"properties"`
	Runtime    map[string]json.RawMessage `json:"runtime"` // Elasticsearch: fields made by scripts, which hide indexed ones
	Derived    map[string]json.RawMessage `json:"derived"` // OpenSearch: the same
}

// find returns the property at a path with dots.
func (m mapping) find(path string) (property, bool) {
	p := property{Properties: m.Properties}
	for name := range strings.SplitSeq(path, ".") {
		next, ok := p.Properties[name]
		if !ok {
			return property{}, false
		}
		p = next
	}
	return p, true
}

// check says everything about a mapping under which the driver would not hold its word, and how to
// mend it. body is the answer to GET <asked>/_mapping: one mapping for each index behind the name.
func (c Config) check(asked string, body []byte) error {
	var indexes map[string]struct {
		Mappings mapping `json:"mappings"`
	}
	if err := json.Unmarshal(body, &indexes); err != nil {
		return fmt.Errorf("read the mapping: %w", err)
	}
	if len(indexes) == 0 {
		return errors.New("the server names no index")
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(indexes)) {
		// Whose index answered is part of what is checked, and behind an alias could be any.
		if c.Isolation == IsolationIndex && name != asked {
			errs = append(errs, fmt.Errorf("%s is an alias of %s: with isolation: index a tenant's index must have that name itself", asked, name))
		}
		errs = append(errs, c.checkOne(name, indexes[name].Mappings))
	}
	return errors.Join(errs...)
}

func (c Config) checkOne(index string, m mapping) error {
	var wrong []string
	fault := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	want := map[string]fieldType{
		tenantPath: keywordField, idPath: keywordField, termsPath: keywordField, urlPath: keywordField,
		titlePath: textField, bodyPath: textField, createdPath: dateField,
	}
	for name, kind := range c.Attributes {
		want[typedPath+"."+name] = fieldType(kind)
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		p, ok := m.find(path)
		switch {
		case !ok:
			fault("the field %s is missing, must be %s", path, want[path])
		case p.Type != string(want[path]):
			fault("the field %s is %s, must be %s", path, p.Type, want[path])
		case p.Index != nil && !*p.Index:
			fault("the field %s is not indexed (index: false)", path)
		case p.DocValues != nil && !*p.DocValues && want[path] != textField:
			fault("the field %s has no doc_values", path)
		}
		// A normalizer would make two tenants, or two ids, one.
		if p.Normalizer != "" {
			fault("the field %s has a normalizer and must have none", path)
		}
		if want[path] == textField && c.Isolation == IsolationFilter && !c.SharedStatistics && p.Similarity != "boolean" {
			fault("the field %s scores with the statistics of all tenants: it needs similarity: boolean (or accept it by shared_statistics: true)", path)
		}
		for _, scripted := range []map[string]json.RawMessage{m.Runtime, m.Derived} {
			if _, hidden := scripted[path]; hidden {
				fault("the field %s is hidden by a runtime field of that name", path)
			}
		}
	}
	for _, path := range []string{tenantPath, termsPath} {
		if p, _ := m.find(path); p.IgnoreAbove != nil && *p.IgnoreAbove < longestKeyword {
			fault("the field %s has ignore_above %d: leave it out", path, *p.IgnoreAbove)
		}
	}
	if s := m.Source; s.Enabled != nil && !*s.Enabled || len(s.Includes)+len(s.Excludes) > 0 {
		fault("_source is not kept whole: the driver could not check whose a document is")
	}
	if d := fmt.Sprint(m.Dynamic); d == "true" || d == "runtime" || m.Dynamic == nil {
		fault("dynamic must be strict or false")
	}
	if c.RouteByTenant && !m.Routing.Required {
		fault("route_by_tenant needs _routing: {required: true}: documents that lie elsewhere would not be found")
	}
	if wrong == nil {
		return nil
	}
	creation, err := json.Marshal(c.creation())
	if err != nil {
		return err
	}
	return fmt.Errorf("index %s does not fit: %s; make an index with PUT and this body, copy the documents by _reindex, and change `index` to it: %s",
		index, strings.Join(wrong, "; "), creation)
}
