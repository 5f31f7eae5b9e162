package redis

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
)

var key = bytes.Repeat([]byte{7}, 32)

func sample(m Message) envelope {
	return envelope{Version: wireVersion, Node: "n1", Seq: 1, At: 1, Message: m}
}

func TestWhatIsSentIsReceived(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Message{
			Topic:  rapid.SampledFrom([]Topic{TopicReload, TopicResource, TopicGap, "x"}).Draw(t, "topic"),
			Tenant: atlas.TenantID(rapid.SampledFrom([]string{"", "acme", "Bad"}).Draw(t, "tenant")),
			Name:   rapid.OneOf(rapid.String(), rapid.Just(""), rapid.Just(strings.Repeat(`"<\`, maxName/3)), rapid.Just(strings.Repeat("\u2028", maxName/3))).Draw(t, "name"),
		}
		secret := rapid.SampledFrom([][]byte{nil, key}).Draw(t, "key")
		wire, err := sample(m).encode(secret, "atlas:bus")
		if err != nil {
			if m.check() == nil {
				t.Fatalf("a good message does not fit: %v", err)
			}
			return
		}
		e, err := decode(wire, secret, "atlas:bus")
		if (err == nil) != (m.check() == nil) {
			t.Fatalf("check says %v, decode %v", m.check(), err)
		}
		if err == nil && e != sample(m) {
			t.Fatalf("%+v became %+v", m, e.Message)
		}
	})
}

func TestMessages(t *testing.T) {
	for _, tt := range []struct {
		m    Message
		good bool
	}{
		{Message{Topic: TopicReload}, true},
		{Message{Topic: TopicReload, Tenant: "acme"}, false},
		{Message{Topic: TopicResource, Tenant: "acme", Name: "crm://orders/1"}, true},
		{Message{Topic: TopicResource, Tenant: "acme"}, false},
		{Message{Topic: TopicResource, Name: "crm://orders/1"}, false},
		{Message{Topic: TopicResource, Tenant: "acme}{", Name: "crm://orders/1"}, false},
		{Message{Topic: TopicResource, Tenant: "acme", Name: "a\nb"}, false},
		{Message{Topic: TopicResource, Tenant: "acme", Name: "\xff"}, false},
		{Message{Topic: TopicResource, Tenant: "acme", Name: strings.Repeat("x", maxName)}, true},
		{Message{Topic: TopicResource, Tenant: "acme", Name: strings.Repeat("x", maxName+1)}, false},
		{Message{Topic: TopicGap}, false},
		{Message{}, false},
	} {
		if err := tt.m.check(); (err == nil) != tt.good {
			t.Errorf("%.80v: %v", tt.m, err)
		}
	}
}

func TestForgeries(t *testing.T) {
	good, err := sample(Message{Topic: TopicReload}).encode(key, "atlas:bus")
	if err != nil {
		t.Fatal(err)
	}
	unsigned, err := sample(Message{Topic: TopicReload}).encode(nil, "atlas:bus")
	if err != nil {
		t.Fatal(err)
	}
	other, err := sample(Message{Topic: TopicReload}).encode(bytes.Repeat([]byte{8}, 32), "atlas:bus")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(good, key, "atlas:bus"); err != nil {
		t.Error(err)
	}
	if _, err := decode(good, key, "staging:bus"); !errors.Is(err, errForged) {
		t.Errorf("from another installation: %v", err)
	}
	for name, wire := range map[string]string{
		"unsigned": unsigned, "another key": other, "changed": strings.Replace(good, "reload", "tools.changed", 1),
		"longer": good + " ", "empty MAC": "." + strings.SplitN(good, ".", 2)[1],
	} {
		if _, err := decode(wire, key, "atlas:bus"); !errors.Is(err, errForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decode(strings.Repeat("x", maxWire)+good, key, "atlas:bus"); !errors.Is(err, errMalformed) {
		t.Errorf("too long: %v", err)
	}
}

func TestSenders(t *testing.T) {
	ss := senders{}
	for i, tt := range []struct {
		node       string
		seq        uint64
		fresh, gap bool
	}{
		{"a", 5, true, true},
		{"a", 5, false, false},
		{"a", 4, false, false},
		{"a", 6, true, false},
		{"a", 8, true, true},
		{"a", 7, false, false},
		{"b", 1, true, false},
		{"b", 1 << 63, true, true},
	} {
		if fresh, gap := ss.take(envelope{Node: tt.node, Seq: tt.seq}); fresh != tt.fresh || gap != tt.gap {
			t.Errorf("%d: %t, %t", i, fresh, gap)
		}
	}
	for i := range 3 * maxNodes {
		ss.take(envelope{Node: strings.Repeat("x", i%maxNode+1) + string(rune(i)), Seq: 1, At: int64(i)})
	}
	if len(ss) > maxNodes {
		t.Errorf("%d senders are remembered", len(ss))
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range []Message{{Topic: TopicReload}, {Topic: TopicResource, Tenant: "acme", Name: "x"}} {
		for _, k := range [][]byte{nil, key} {
			wire, err := sample(m).encode(k, "c")
			if err != nil {
				f.Fatal(err)
			}
			f.Add(wire)
		}
	}
	f.Add("")
	f.Add("-.")
	f.Add("-.{}{}")
	f.Add(`-.{"v":1,"node":"n","seq":1,"msg":{"topic":"reload"}}`)
	f.Fuzz(func(t *testing.T, wire string) {
		e, err := decode(wire, nil, "c")
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatal(err)
			}
			return
		}
		if err := e.Message.check(); err != nil || e.Seq == 0 || e.Node == "" {
			t.Fatalf("%+v, %v", e, err)
		}
		if _, err := decode(wire, []byte("a key that no seed was made with"), "c"); err == nil {
			t.Fatal("it is also authentic")
		}
	})
}
