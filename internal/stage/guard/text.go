package guard

// Redact returns a text with secrets and personal data replaced and hidden characters made harmless:
// for what people read beside answers, such as the preview of an approval.
func (g *Guard) Redact(text string) string {
	return g.detect.text(text, mode{pii: true, untrusted: true})
}
