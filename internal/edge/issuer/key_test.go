package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"testing"
)

// The key of RFC 7517 appendix A.1; its thumbprint was computed apart from this program, by the text
// of RFC 7638.
func TestThumbprint(t *testing.T) {
	dec := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	raw := append(append([]byte{4}, dec("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4")...), dec("4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM")...)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	if err != nil {
		t.Fatal(err)
	}
	got, err := thumbprint(key)
	if err != nil {
		t.Fatal(err)
	}
	if want := "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
