package sqlguard

import (
	"regexp"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// pgCatalog is the schema of all that comes with Postgres.
const pgCatalog = "pg_catalog"

// systemColumns are columns that every table has and no schema lists.
var systemColumns = set(`ctid xmin xmax cmin cmax tableoid`)

// builtin are the functions of pg_catalog that agents may use: they compute from their arguments
// alone, or tell the time. What is missing on purpose: all that reads or changes settings, runs text
// as SQL, takes an object identifier, reads the catalog or files, tells of server, session or user,
// locks, waits, signals, makes a large value of a small one (repeat, array_fill, factorial), or turns
// a text into a row of a named type.
var builtin = set(`
	abs cbrt ceil ceiling degrees div exp floor gcd lcm ln log log10 mod pi power pow radians round sign sqrt trunc
	min_scale scale trim_scale width_bucket random acos asin atan atan2 cos cot sin tan
	ascii bit_length btrim char_length character_length chr concat concat_ws format initcap left length lower lpad ltrim
	md5 normalize is_normalized octet_length overlay position quote_ident quote_literal quote_nullable replace reverse
	right rpad rtrim split_part starts_with strpos substr substring textlen to_hex translate trim upper
	like_escape similar_to_escape regexp_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table
	string_to_array array_to_string string_to_table bit_count encode decode sha224 sha256 sha384 sha512
	age clock_timestamp date_bin date_part date_trunc extract isfinite justify_days justify_hours justify_interval
	make_date make_interval make_time make_timestamp make_timestamptz now overlaps statement_timestamp timezone
	to_char to_date to_number to_timestamp transaction_timestamp date time timestamp
	num_nonnulls num_nulls
	array_append array_cat array_dims array_length array_lower array_ndims array_position array_positions array_prepend
	array_remove array_replace array_upper cardinality trim_array unnest generate_series generate_subscripts
	array_agg avg bit_and bit_or bool_and bool_or count every max min string_agg sum
	corr covar_pop covar_samp regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy
	stddev stddev_pop stddev_samp var_pop var_samp variance mode percentile_cont percentile_disc
	json_agg jsonb_agg json_object_agg jsonb_object_agg
	row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
	to_json to_jsonb row_to_json array_to_json json_build_array jsonb_build_array json_build_object jsonb_build_object
	json_object jsonb_object json_array_length jsonb_array_length json_typeof jsonb_typeof json_extract_path
	jsonb_extract_path json_extract_path_text jsonb_extract_path_text json_strip_nulls jsonb_strip_nulls jsonb_pretty
	jsonb_set jsonb_insert json_each jsonb_each json_each_text jsonb_each_text json_object_keys jsonb_object_keys
	json_array_elements jsonb_array_elements json_array_elements_text jsonb_array_elements_text
	json_to_record jsonb_to_record json_to_recordset jsonb_to_recordset
	jsonb_path_exists jsonb_path_match jsonb_path_query jsonb_path_query_array jsonb_path_query_first
	to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_rank ts_rank_cd ts_headline numnode
	tsvector_to_array isempty lower_inc upper_inc lower_inf upper_inf
	int4range int8range numrange daterange tsrange tstzrange
`)

// inFrom are the functions that may stand in FROM, with the names of their columns. A single "" is
// the name that the function has there; none, that the statement must define the columns.
var inFrom = map[string][]string{
	"generate_series": {""}, "generate_subscripts": {""}, "unnest": {""},
	"regexp_matches": {""}, "regexp_split_to_table": {""}, "string_to_table": {""},
	"json_array_elements": {"value"}, "jsonb_array_elements": {"value"},
	"json_array_elements_text": {"value"}, "jsonb_array_elements_text": {"value"},
	"json_each": {"key", "value"}, "jsonb_each": {"key", "value"},
	"json_each_text": {"key", "value"}, "jsonb_each_text": {"key", "value"},
	"json_object_keys": {""}, "jsonb_object_keys": {""}, "jsonb_path_query": {""},
	"json_to_record": nil, "jsonb_to_record": nil, "json_to_recordset": nil, "jsonb_to_recordset": nil,
}

// operators are those of pg_catalog that agents may use.
var operators = set(`
	= <> != < > <= >= + - * / % ^ |/ ||/ @ & | # ~ << >> || ~~ !~~ ~~* !~~* ~* !~ !~* ^@
	-> ->> #> #>> @> <@ ? ?| ?& && @@ @? #- -|- &< &>
`)

// types are those of pg_catalog that agents may cast to: none whose input looks names up in the
// catalog (regclass and its kin), none of the system's own.
var types = set(`
	bool int2 int4 int8 float4 float8 numeric text varchar bpchar date time timetz timestamp timestamptz interval
	uuid json jsonb jsonpath bytea bit varbit tsvector tsquery int4range int8range numrange daterange tsrange tstzrange
`)

// collations are those that every database has.
var collations = set(`C POSIX default`)

// maxTypmod is the largest number in a type such as varchar(20), maxPad the longest padding.
const (
	maxTypmod = 65535
	maxPad    = 1000
)

// arguments holds what must be true of a function's arguments besides.
var arguments = map[string]func([]*pg.Node) string{
	"lpad": padding, "rpad": padding, "format": formatting,
}

func padding(args []*pg.Node) string {
	if len(args) >= 2 {
		if c := args[1].GetAConst(); c.GetIval() != nil && c.GetIval().GetIval() <= maxPad {
			return ""
		}
	}
	return "the length must be a number in the query, at most 1000"
}

// directives are what format may do: widths make large values of small ones.
var directives = regexp.MustCompile(`%(?:[0-9]{1,2}\$)?[sIL]|%%`)

func formatting(args []*pg.Node) string {
	if len(args) > 0 {
		c := args[0].GetAConst()
		if c.GetSval() != nil && !strings.Contains(directives.ReplaceAllString(c.GetSval().GetSval(), ""), "%") {
			return ""
		}
	}
	return "the format must be a text in the query, with %s, %I, %L and %% only"
}

func set(words string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		m[w] = true
	}
	return m
}

// Rules are the configuration as the checks need it; read-only.
type rules struct {
	schema    string
	tables    map[string][]string
	columns   map[string]map[string]bool // by table
	functions map[string]string          // added ones: schema by name
	types     map[string]bool            // added ones, of schema
	maxDepth  int
	maxTables int
	maxBytes  int
}

func newRules(c Config) rules {
	r := rules{
		schema: c.Schema, tables: map[string][]string{}, columns: map[string]map[string]bool{},
		functions: map[string]string{}, types: map[string]bool{},
		maxDepth: c.MaxDepth, maxTables: c.MaxTables, maxBytes: c.MaxBytes,
	}
	for table, cols := range c.Tables {
		r.tables[table] = append([]string(nil), cols...)
		r.columns[table] = map[string]bool{}
		for _, col := range cols {
			r.columns[table][col] = true
		}
	}
	for _, f := range c.Functions {
		if schema, name, ok := strings.Cut(f, "."); ok {
			r.functions[name] = schema
		} else {
			r.functions[f] = pgCatalog
		}
	}
	for _, t := range c.Types {
		r.types[t] = true
	}
	return r
}
