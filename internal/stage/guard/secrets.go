package guard

import (
	"math"
	"regexp"
)

// A rule finds one kind of secret. It is looked at only where one of its keywords stands.
type rule struct {
	kind     string
	keywords []string       // at least three bytes long
	re       *regexp.Regexp // anchored at the keyword; its group 1, if it has one, is the secret
	inside   bool           // may begin in the middle of a word
	dash     bool           // a dash before it counts as the middle of a word
	window   int            // bytes looked at; 0 means 1024
	entropy  float64        // bits per character that the secret has at least; 0 means any
}

func (r *rule) match(s []byte, i int) (hit, bool) {
	if i > 0 && (!r.inside && isWord(s[i-1]) || r.dash && s[i-1] == '-') {
		return hit{}, false
	}
	window := r.window
	if window == 0 {
		window = 1024
	}
	loc := r.re.FindSubmatchIndex(s[i:min(len(s), i+window)])
	if loc == nil {
		return hit{}, false
	}
	start, end := loc[0], loc[1]
	if len(loc) > 2 && loc[2] >= 0 {
		start, end = loc[2], loc[3]
	}
	h := hit{i + start, i + end, r.kind}
	if r.entropy > 0 && entropy(s[h.start:h.end]) < r.entropy {
		return hit{}, false
	}
	return h, true
}

// entropy is Shannon's, in bits per byte.
func entropy(s []byte) float64 {
	var counts [256]int
	for _, c := range s {
		counts[c]++
	}
	sum := 0.0
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / float64(len(s))
			sum -= p * math.Log2(p)
		}
	}
	return sum
}

// hexAfter is prefix before each of the hexadecimal digits: a keyword of two bytes is too common.
func hexAfter(prefix string) []string {
	var words []string
	for _, c := range "0123456789abcdef" {
		words = append(words, prefix+string(c))
	}
	return words
}

// assigned is the rest of an assignment behind its name: the value is what is redacted. Values that
// are placeholders themselves stay, and so do marks of an earlier pass.
const assigned = `["']?\s{0,4}[:=]\s{0,4}["']?([^\s"'\[\]<>{}$*;,&]{6,200})`

// secretRules are the rules, after the shapes of gitleaks' (github.com/gitleaks/gitleaks, MIT). Each
// names a form that is nothing else: what merely looks random stays, for ids look random too. A
// rule that reads on without a bound begins at the beginning of a word only, so that text made of
// keywords is still read in linear time.
func secretRules() []rule {
	re := regexp.MustCompile // the table is fixed and a test reads all of it
	return []rule{
		{
			kind: "PRIVATE_KEY", keywords: []string{"-----BEGIN"}, inside: true, window: 32 << 10,
			re: re(`^-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----|$)`),
		},
		{kind: "AGE_KEY", keywords: []string{"AGE-SECRET-KEY-1"}, re: re(`^AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}`)},
		{kind: "AWS_ACCESS_KEY", keywords: []string{"AKIA", "ASIA", "ABIA", "ACCA"}, re: re(`^A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16}\b`)},
		{kind: "AWS_SECRET_KEY", keywords: []string{"aws_secret_access_key", "AWS_SECRET_ACCESS_KEY", "SecretAccessKey", "secret_access_key"}, re: re(`^[A-Za-z_]{15,21}["']?\s{0,4}[:=]\s{0,4}["']?([A-Za-z0-9/+]{40})\b`)},
		{kind: "AZURE_KEY", keywords: []string{"AccountKey=", "SharedAccessKey="}, re: re(`^[A-Za-z]+=([A-Za-z0-9+/]{43,86}={1,2})`)},
		{kind: "ANTHROPIC_KEY", keywords: []string{"sk-ant-"}, re: re(`^sk-ant-[A-Za-z0-9_-]{20,}`)},
		{kind: "OPENAI_KEY", keywords: []string{"sk-proj-", "sk-svcacct-", "sk-admin-"}, re: re(`^sk-[a-z]+-[A-Za-z0-9_-]{20,}`)},
		{kind: "OPENAI_KEY", keywords: []string{"sk-"}, re: re(`^sk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}`)},
		{kind: "ATLASSIAN_TOKEN", keywords: []string{"ATATT3"}, re: re(`^ATATT3[A-Za-z0-9_=-]{100,}`)},
		{kind: "DATABRICKS_TOKEN", keywords: []string{"dapi"}, re: re(`^dapi[a-f0-9]{32}(?:-\d)?\b`)},
		{kind: "DIGITALOCEAN_TOKEN", keywords: []string{"dop_v1_", "doo_v1_", "dor_v1_"}, re: re(`^do[opr]_v1_[a-f0-9]{64}`)},
		{kind: "DOCKER_TOKEN", keywords: []string{"dckr_pat_"}, re: re(`^dckr_pat_[A-Za-z0-9_-]{20,}`)},
		{kind: "GITHUB_TOKEN", keywords: []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, re: re(`^gh[pousr]_[A-Za-z0-9]{36,255}`)},
		{kind: "GITHUB_TOKEN", keywords: []string{"github_pat_"}, re: re(`^github_pat_[A-Za-z0-9_]{60,255}`)},
		{kind: "GITLAB_TOKEN", keywords: []string{"glpat-", "gldt-", "glrt-", "glcbt-", "glptt-"}, re: re(`^gl[a-z]+-[A-Za-z0-9_-]{20,}`)},
		{kind: "GOOGLE_API_KEY", keywords: []string{"AIza"}, re: re(`^AIza[A-Za-z0-9_-]{35}`)},
		{kind: "GOOGLE_OAUTH", keywords: []string{"ya29.", "GOCSPX-"}, re: re(`^(?:ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{28})`)},
		{kind: "HUGGINGFACE_TOKEN", keywords: []string{"hf_"}, re: re(`^hf_[A-Za-z]{34}\b`)},
		{kind: "LINEAR_KEY", keywords: []string{"lin_api_"}, re: re(`^lin_api_[A-Za-z0-9]{40}`)},
		{kind: "MAILGUN_KEY", keywords: []string{"key-"}, re: re(`^key-[a-f0-9]{32}\b`)},
		{kind: "NPM_TOKEN", keywords: []string{"npm_"}, re: re(`^npm_[A-Za-z0-9]{36}\b`)},
		{kind: "PYPI_TOKEN", keywords: []string{"pypi-"}, re: re(`^pypi-AgE[A-Za-z0-9_-]{50,}`)},
		{kind: "SENDGRID_KEY", keywords: []string{"SG."}, re: re(`^SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}`)},
		{kind: "SHOPIFY_TOKEN", keywords: []string{"shpat_", "shpca_", "shppa_", "shpss_"}, re: re(`^shp[a-z]{2}_[A-Fa-f0-9]{32}`)},
		{kind: "SLACK_TOKEN", keywords: []string{"xoxa-", "xoxb-", "xoxe-", "xoxo-", "xoxp-", "xoxr-", "xoxs-", "xapp-", "xoxe."}, re: re(`^x(?:ox[a-z]|app)[-.][A-Za-z0-9.-]{16,}`)},
		{kind: "SLACK_WEBHOOK", keywords: []string{"hooks.slack.com/"}, re: re(`^hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9_/-]{20,})`)},
		{kind: "STRIPE_KEY", keywords: []string{"sk_live_", "sk_test_", "rk_live_", "rk_test_"}, re: re(`^[sr]k_[a-z]+_[A-Za-z0-9]{16,}`)},
		{kind: "WEBHOOK_SECRET", keywords: []string{"whsec_"}, re: re(`^whsec_[A-Za-z0-9+/=]{20,}`)},
		{kind: "TELEGRAM_TOKEN", keywords: []string{":AA"}, inside: true, re: re(`^:(AA[A-Za-z0-9_-]{33})(?:[^A-Za-z0-9_-]|$)`)},
		{kind: "TWILIO_KEY", keywords: hexAfter("SK"), re: re(`^SK[0-9a-f]{32}\b`)},
		{kind: "VAULT_TOKEN", keywords: []string{"hvs.", "hvb.", "hvr."}, re: re(`^hv[sbr]\.[A-Za-z0-9_-]{24,}`)},
		{kind: "JWT", keywords: []string{"eyJ"}, dash: true, window: 8 << 10, re: re(`^eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}`)},
		{kind: "BEARER_TOKEN", keywords: []string{"Bearer ", "bearer ", "BEARER "}, window: 8 << 10, entropy: 3.6, re: re(`^(?i:bearer) +([A-Za-z0-9._~+/-]{24,}=*)`)},
		{kind: "URL_PASSWORD", keywords: []string{"://"}, inside: true, re: re(`^://[^\s/?#@:"'<>]{0,128}:([^\s/@"'<>{}\[\]$*]{3,200})@`)},
		{kind: "PASSWORD", keywords: []string{"password", "Password", "PASSWORD", "passwd", "Passwd", "PASSWD", "Pwd", "pwd", "PWD"}, inside: true, re: re(`^[A-Za-z]{3,8}["']?\s?=\s?["']?([^\s"'\[\]<>{}$*;,&]{4,200})`)},
		{
			kind: "CREDENTIAL", inside: true, entropy: 3.2, re: re(`^[A-Za-z_-]{6,13}` + assigned),
			keywords: []string{"api_key", "API_KEY", "apikey", "apiKey", "api-key", "client_secret", "CLIENT_SECRET", "clientSecret", "access_token", "accessToken", "refresh_token", "auth_token", "AUTH_TOKEN", "secret_key", "SECRET_KEY", "secretKey"},
		},
	}
}
