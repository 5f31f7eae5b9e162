package main

import "testing"

func TestJudgements(t *testing.T) {
	tools := []string{"a", "b"}
	for name, c := range map[string]struct {
		got string
		ok  bool
	}{
		"same list, other order": {judgeList([]string{"b", "a"}, tools), true},
		"a tool too many":        {judgeList([]string{"a", "b", "c"}, tools), false},
		"a tool too few":         {judgeList([]string{"a"}, tools), false},
		"empty list":             {judgeList(nil, tools), false},
		"an answer":              {judgeAnswer(&answer{false, "status refund_pending"}, false, allowedWord), true},
		"a failure":              {judgeAnswer(&answer{true, "status refund_pending"}, false, allowedWord), false},
		"another answer":         {judgeAnswer(&answer{false, "shipped"}, false, allowedWord), false},
		"denied":                 {judgeAnswer(&answer{true, `{"code":"denied_by_policy"}`}, true, deniedWord), true},
		"not denied":             {judgeAnswer(&answer{false, "1970-01-01"}, true, deniedWord), false},
		"expired":                {judgeExpired("StreamableHTTPError 401: token_expired"), true},
		"expired and accepted":   {judgeExpired(""), false},
		"another failure":        {judgeExpired("connection refused"), false},
		"4010 is not a status":   {judgeExpired("port 4010"), false},
		"a page":                 {judgePage("Sign\n in  copilot@acme", "Sign in", "copilot@acme"), true},
		"another page":           {judgePage("This does not work", "Sign in"), false},
	} {
		if (c.got == ok) != c.ok {
			t.Errorf("%s: %q", name, c.got)
		}
	}
	if judgeAnswer(nil, false, "") != none {
		t.Error("a client that cannot call has nothing to judge")
	}
}

func TestRowIsOnlyOKWithCells(t *testing.T) {
	for name, c := range map[string]struct {
		row row
		ok  bool
	}{
		"nothing seen":   {row{}, false},
		"all ok":         {row{Cells: map[string]string{"list": ok, "call": none}}, true},
		"one wrong":      {row{Cells: map[string]string{"list": ok, "call": "no"}}, false},
		"ok but a fault": {row{Cells: map[string]string{"list": ok}, Error: "it speaks another version"}, false},
	} {
		if c.row.ok() != c.ok {
			t.Errorf("%s: %v", name, c.row.ok())
		}
	}
}

func TestChoose(t *testing.T) {
	for list, want := range map[string]int{"": len(trials()), "provider": 2, "claude-code,browser": 3} {
		if got, err := choose(list); err != nil || len(got) != want {
			t.Errorf("%q: %d, %v; want %d", list, len(got), err, want)
		}
	}
	if _, err := choose("nonsense"); err == nil {
		t.Error("no error for a wrong name")
	}
	for _, tr := range trials() {
		if len(columns[tr.group]) == 0 {
			t.Errorf("%s: its group %q has no columns", tr.name, tr.group)
		}
	}
}
