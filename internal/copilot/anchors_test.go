package copilot

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRenumberCountsInOrderOfCitation(t *testing.T) {
	sources := []Source{{Anchor: "S1", ID: "a"}, {Anchor: "S2", ID: "b"}, {Anchor: "S3", ID: "c"}}
	got, c := renumber(sources, Checked{
		Text: "Size S3 is out [S3]. Two more [S1][S9].", Citations: []string{"S3", "S1"},
		Sentences: []SentenceCheck{{Sentence: "Size S3 is out [S3].", Cites: []string{"S3"}, Checked: []string{"amount $4 in S3"}}, {Sentence: "No [S2].", Cites: []string{"S2"}}},
	})
	want := Checked{
		Text: "Size S3 is out [S1]. Two more [S2][S9].", Citations: []string{"S1", "S2"},
		Sentences: []SentenceCheck{{Sentence: "Size S3 is out [S1].", Cites: []string{"S1"}, Checked: []string{"amount $4 in S1"}}, {Sentence: "No [S3].", Cites: []string{"S3"}}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	for i, anchor := range []string{"S2", "S3", "S1"} {
		if got[i].Anchor != anchor {
			t.Errorf("source %s has %s, want %s", got[i].ID, got[i].Anchor, anchor)
		}
	}
	if sources[0].Anchor != "S1" {
		t.Error("changed the caller's sources")
	}
}
