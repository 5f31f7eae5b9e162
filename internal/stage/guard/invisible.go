package guard

import (
	"unicode"
	"unicode/utf8"
)

// neutralize takes out of a text what a reader does not see but a model or terminal acts on:
// characters that turn the direction of writing ("Trojan Source", CVE-2021-42574), tag characters
// and variation selectors that spell hidden text, zero-width ones, and control characters. The
// last become U+FFFD, so that something is seen to be missing; the others vanish. It reports
// whether anything changed; dst is then what it returns, and otherwise not used.
func neutralize(dst, text []byte) ([]byte, bool) {
	i := 0
	for i < len(text) && plain(text[i]) {
		i++
	}
	if i == len(text) {
		return text, false
	}
	changed := false
	copied := 0
	prev := lastRune(text[:i])
	for i < len(text) {
		if plain(text[i]) {
			prev = rune(text[i])
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		keep, stand := r, rune(0)
		switch {
		case r == utf8.RuneError && n == 1:
			keep, stand = 0, utf8.RuneError
		case r < ' ' || r >= 0x7f && r < 0xa0:
			keep, stand = 0, utf8.RuneError
		case r == '\u2028' || r == '\u2029':
			keep, stand = 0, '\n'
		case r < 0xad:
		case joins(r):
			// Emoji, and scripts such as Persian and Hindi, need one between two of their own
			// characters; a row of them only carries bits.
			next, _ := utf8.DecodeRune(text[i+n:])
			joiner := r <= '\u200d'
			if joiner {
				if !joinable(next) || !joinable(prev) && prev != '\ufe0f' {
					keep = 0
				}
			} else if !joinable(prev) {
				keep = 0
			}
		case hidden(r):
			keep = 0
		}
		if keep == 0 {
			changed = true
			dst = append(dst, text[copied:i]...)
			if stand != 0 {
				dst = utf8.AppendRune(dst, stand)
				prev = stand
			}
			copied = i + n
		} else {
			prev = r
		}
		i += n
	}
	if !changed {
		return text, false
	}
	return append(dst, text[copied:]...), true
}

// plain reports an ASCII character that prints, or white space.
func plain(c byte) bool {
	return ' ' <= c && c < 0x7f || c == '\n' || c == '\t' || c == '\r'
}

func lastRune(text []byte) rune {
	r, _ := utf8.DecodeLastRune(text)
	return r
}

// joins reports the invisible characters that good text has: joiners, and the selectors between
// text and emoji style.
func joins(r rune) bool {
	return r == '\u200c' || r == '\u200d' || r == '\ufe0e' || r == '\ufe0f'
}

// joinable reports what may stand beside one of them.
func joinable(r rune) bool {
	return r >= 0xa9 && !joins(r) && !hidden(r) && r != utf8.RuneError || r == '#' || r == '*' || '0' <= r && r <= '9'
}

// hidden reports characters without a shape of their own.
func hidden(r rune) bool {
	switch {
	case r == 0x00ad, // soft hyphen
		r == 0x034f,              // combining grapheme joiner
		r == 0x115f, r == 0x1160, // Hangul fillers
		r == 0x17b4, r == 0x17b5, // Khmer inherent vowels
		0x180b <= r && r <= 0x180f, // Mongolian selectors and separator
		r == 0x200b,                // zero-width space
		r == 0x3164, r == 0xffa0,   // Hangul fillers
		0xfe00 <= r && r <= 0xfe0d,   // variation selectors
		0x1d173 <= r && r <= 0x1d17a, // musical formatting
		0xe0000 <= r && r <= 0xe0fff: // tags and further variation selectors
		return true
	case joins(r),
		0x0600 <= r && r <= 0x0605, r == 0x06dd, r == 0x070f, // signs of Arabic and Syriac that are seen
		0x0890 <= r && r <= 0x0891, r == 0x08e2, r == 0x110bd, r == 0x110cd:
		return false
	}
	// Format characters: direction marks, embeddings, overrides and isolates among them.
	return unicode.Is(unicode.Cf, r)
}
