// Package lexical turns texts into vectors by hashing their words and letter groups. It needs no
// model and no network and always gives the same vector for the same text. It is named for what it
// is: it finds texts that share words and parts of words, not texts that mean the same.
package lexical

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// version is part of the ID: it changes whenever the vectors do.
const version = "lexical-hash-v1"

// Weights of the features. Words carry the meaning; letter groups forgive inflection and typing
// mistakes, and share one word's weight among them so that long words do not drown short ones.
const (
	wordWeight  = 1.0
	pairWeight  = 0.5
	gramWeight  = 0.7
	commonShare = 0.15 // of words that are in nearly every text
	gramMin     = 3
	gramMax     = 5
	maxWord     = 64 // runes of a word that are looked at
)

// Config are the embedder's settings.
type Config struct {
	Dim int `yaml:"dim"` // dimension of the vectors; 0 means 384
}

func (c Config) withDefaults() Config {
	c.Dim = cmp.Or(c.Dim, 384)
	return c
}

// Validate reports all mistakes, joined.
func (c Config) Validate() error {
	if c = c.withDefaults(); c.Dim < 16 || c.Dim > 4096 {
		return fmt.Errorf("dim must be between 16 and 4096, is %d", c.Dim)
	}
	return nil
}

// An Embedder hashes features into vectors (the hashing trick of Weinberger et al., ICML 2009:
// signed, so that collisions cancel out on average). It is safe for concurrent use and implements
// source.Embedder.
type Embedder struct {
	dim    int
	id     string
	common map[string]bool
}

// New makes an embedder.
func New(cfg Config) (*Embedder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	e := &Embedder{dim: cfg.Dim, id: version + "-" + strconv.Itoa(cfg.Dim), common: map[string]bool{}}
	for w := range strings.FieldsSeq(commonWords) {
		e.common[w] = true
	}
	return e, nil
}

const commonWords = `a an and are as at be been but by can do does for from had has have he her his how i if in into is it
its me my no not of on or our she so that the their them then there these they this to was we were what when where which
who why will with you your`

// ID names the algorithm, its version and the dimension.
func (e *Embedder) ID() string { return e.id }

// Dim returns the dimension of the vectors.
func (e *Embedder) Dim() int { return e.dim }

// Embed returns a vector of length 1 for each text, or the zero vector for a text without letters
// and digits. It fails only when ctx ends.
func (e *Embedder) Embed(ctx context.Context, texts []string) ([][]float32, error) {
	out := make([][]float32, len(texts))
	for i, t := range texts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out[i] = e.embed(t)
	}
	return out, nil
}

func (e *Embedder) embed(text string) []float32 {
	sum := make([]float64, e.dim)
	counts := map[string]float64{} // a word's weight so far: it grows like 1 + 1/2 + 1/3 …
	previous := ""
	for word := range words(text) {
		counts[word]++
		w := 1 / counts[word]
		if e.common[word] {
			e.add(sum, 'w', word, wordWeight*commonShare*w)
			previous = ""
			continue
		}
		e.add(sum, 'w', word, wordWeight*w)
		e.grams(sum, word, gramWeight*w)
		if previous != "" {
			e.add(sum, 'p', previous+" "+word, pairWeight*w)
		}
		previous = word
	}
	return normalise(sum)
}

// grams adds the letter groups of a word, with its ends marked.
func (e *Embedder) grams(sum []float64, word string, weight float64) {
	marked := "<" + word + ">"
	var starts [maxWord + 3]int // byte offset of each rune
	n := 0
	for i := range marked {
		starts[n] = i
		n++
	}
	starts[n] = len(marked)
	total := 0
	for size := gramMin; size <= gramMax && size <= n; size++ {
		total += n - size + 1
	}
	if total == 0 {
		return
	}
	each := weight / math.Sqrt(float64(total))
	for size := gramMin; size <= gramMax && size <= n; size++ {
		for i := 0; i+size <= n; i++ {
			e.add(sum, 'g', marked[starts[i]:starts[i+size]], each)
		}
	}
}

// add hashes a feature to a place and a sign (64-bit FNV-1a with a finishing mix).
func (e *Embedder) add(sum []float64, kind byte, feature string, weight float64) {
	h := uint64(14695981039346656037)
	h = (h ^ uint64(kind)) * 1099511628211
	for i := range len(feature) {
		h = (h ^ uint64(feature[i])) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	if h>>63 == 1 {
		weight = -weight
	}
	sum[h%uint64(len(sum))] += weight
}

func normalise(sum []float64) []float32 {
	var square float64
	for _, v := range sum {
		square += v * v
	}
	out := make([]float32, len(sum))
	if square == 0 {
		return out
	}
	length := math.Sqrt(square)
	for i, v := range sum {
		out[i] = float32(v / length)
	}
	return out
}

// words yields the words of a text in lower case and without accents. '-' and '_' hold an id such
// as CUST-1001 together; it is yielded whole and, if it has several parts, in parts.
func words(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for chunk := range strings.FieldsFuncSeq(fold(text), func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_'
		}) {
			chunk = strings.Trim(chunk, "-_")
			if chunk == "" {
				continue
			}
			chunk = cut(chunk)
			if !yield(chunk) {
				return
			}
			if !strings.ContainsAny(chunk, "-_") {
				continue
			}
			for part := range strings.FieldsFuncSeq(chunk, func(r rune) bool { return r == '-' || r == '_' }) {
				if !yield(part) {
					return
				}
			}
		}
	}
}

// fold lowers case and drops accents.
func fold(text string) string {
	ascii := true
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	if ascii {
		return strings.ToLower(text)
	}
	text = norm.NFKD.String(strings.ToValidUTF8(text, " "))
	return strings.ToLower(strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return r
	}, text))
}

func cut(word string) string {
	n := 0
	for i := range word {
		if n == maxWord {
			return word[:i]
		}
		n++
	}
	return word
}
