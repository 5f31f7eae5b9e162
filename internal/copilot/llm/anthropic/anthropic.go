// Package anthropic plays the copilot's roles with Anthropic's Messages API. Planner and critic
// answer in JSON of a given schema, the retriever with tool calls, the synthesizer with citations
// of search results, which become the anchors [S1]. It retries in one layer of its own and counts
// what every call costs. It reads no environment: key, URL and HTTP client are handed in.
package anthropic

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot"
)

// DefaultModel is used when the configuration names none.
const DefaultModel = "claude-opus-4-7"

// Config says which model to use and how. The zero Config has the defaults; a key is needed.
type Config struct {
	Key      string        `yaml:"-"`
	Model    string        `yaml:"model"`    // claude-opus-4-7
	BaseURL  string        `yaml:"base_url"` // the provider's own
	Attempts int           `yaml:"attempts"` // of one call, the first included; 3
	Timeout  time.Duration `yaml:"timeout"`  // of one attempt; 45s
	InUSD    float64       `yaml:"in_usd"`   // per million input tokens; 5
	OutUSD   float64       `yaml:"out_usd"`  // per million output tokens; 25
}

func (c Config) withDefaults() Config {
	c.Model = cmp.Or(c.Model, DefaultModel)
	c.Attempts = cmp.Or(c.Attempts, 3)
	c.Timeout = cmp.Or(c.Timeout, 45*time.Second)
	c.InUSD, c.OutUSD = cmp.Or(c.InUSD, 5), cmp.Or(c.OutUSD, 25)
	return c
}

// Validate reports every mistake.
func (c Config) Validate() error {
	var errs []error
	if c.Key == "" {
		errs = append(errs, errors.New("an Anthropic API key is needed"))
	}
	if c.BaseURL != "" {
		if u, err := url.Parse(c.BaseURL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			errs = append(errs, errors.New("copilot.anthropic.base_url is not a URL"))
		}
	}
	if c.Attempts < 0 || c.Attempts > 10 {
		errs = append(errs, errors.New("copilot.anthropic.attempts must be 1 to 10"))
	}
	if c.Timeout < 0 {
		errs = append(errs, errors.New("copilot.anthropic.timeout must not be negative"))
	}
	if c.InUSD < 0 || c.OutUSD < 0 {
		errs = append(errs, errors.New("copilot.anthropic prices must not be negative"))
	}
	return errors.Join(errs...)
}

// Model implements [copilot.Model]. It is safe for concurrent use.
type Model struct {
	cfg    Config
	client sdk.Client
}

var _ copilot.Model = (*Model)(nil)

// New returns a model that sends its requests with hc, which may be nil.
func New(cfg Config, hc *http.Client) (*Model, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	opts := []option.RequestOption{
		option.WithoutEnvironmentDefaults(), option.WithAPIKey(cfg.Key),
		option.WithMaxRetries(0), // one retry layer: ours
	}
	if cfg.BaseURL != "" {
		opts = append(opts, option.WithBaseURL(cfg.BaseURL))
	} else {
		opts = append(opts, option.WithEnvironmentProduction())
	}
	if hc != nil {
		opts = append(opts, option.WithHTTPClient(hc))
	}
	return &Model{cfg: cfg, client: sdk.NewClient(opts...)}, nil
}

// Name implements [copilot.Model].
func (m *Model) Name() string { return "anthropic " + m.cfg.Model }

// send makes a call, streaming, and retries what waiting may mend. text, if not nil, receives the
// text as it comes, of a first attempt only: nobody wants to read a draft twice.
func (m *Model) send(ctx context.Context, params sdk.MessageNewParams, text func(string)) (*sdk.Message, copilot.Usage, error) {
	params.Model = m.cfg.Model
	var spent copilot.Usage
	for attempt := 1; ; attempt++ {
		msg, begun, err := m.stream(ctx, params, text)
		if msg != nil {
			spent = m.add(spent, msg.Usage)
		}
		if err == nil {
			if msg.StopReason == sdk.StopReasonRefusal {
				return msg, spent, fmt.Errorf("anthropic: %w", copilot.ErrRefused)
			}
			return msg, spent, nil
		}
		wait, again := m.again(err, attempt)
		if !again || attempt >= m.cfg.Attempts || ctx.Err() != nil || begun && text != nil {
			return nil, spent, m.failure(ctx, err)
		}
		if d, ok := ctx.Deadline(); ok && time.Until(d) <= wait {
			return nil, spent, m.failure(ctx, err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, spent, m.failure(ctx, ctx.Err())
		}
	}
}

// stream makes one attempt. begun reports whether text was passed on.
func (m *Model) stream(ctx context.Context, params sdk.MessageNewParams, text func(string)) (msg *sdk.Message, begun bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	defer cancel()
	s := m.client.Messages.NewStreaming(ctx, params)
	defer func() { _ = s.Close() }() // read to its end or given up; nothing to lose
	msg = &sdk.Message{}
	ended := false
	for s.Next() {
		e := s.Current()
		if err := msg.Accumulate(e); err != nil {
			return msg, begun, fmt.Errorf("read the stream: %w", err)
		}
		ended = ended || e.Type == "message_stop"
		if text != nil && e.Type == "content_block_delta" && e.Delta.Type == "text_delta" {
			begun = true
			text(e.Delta.Text)
		}
	}
	if err := s.Err(); err != nil {
		return msg, begun, err
	}
	if !ended {
		return msg, begun, io.ErrUnexpectedEOF
	}
	return msg, begun, nil
}

// again says whether and when to try again: rate limits, overload, server faults and broken streams.
func (m *Model) again(err error, attempt int) (time.Duration, bool) {
	wait := 500 * time.Millisecond << (attempt - 1)
	if api, ok := errors.AsType[*sdk.Error](err); ok {
		switch {
		case api.StatusCode == http.StatusTooManyRequests, api.StatusCode == http.StatusRequestTimeout, api.StatusCode >= 500:
		case api.StatusCode == 0, api.StatusCode == http.StatusOK: // an error event inside a stream
		default:
			return 0, false
		}
		if api.Response != nil {
			if s, err := strconv.Atoi(api.Response.Header.Get("Retry-After")); err == nil && s >= 0 && s <= 60 {
				wait = time.Duration(s) * time.Second
			}
		}
		return wait, true
	}
	return wait, !errors.Is(err, context.Canceled)
}

// failure translates a provider's error. Its text stays in Err, for operators.
func (m *Model) failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return atlas.ErrorOf(ctx.Err())
	}
	if api, ok := errors.AsType[*sdk.Error](err); ok {
		switch api.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return atlas.Errorf(atlas.CodeSourceMisused, err, "the model's provider refused the API key")
		case http.StatusTooManyRequests:
			return atlas.Errorf(atlas.CodeRateLimited, err, "the model's provider limits the rate; wait, then try again")
		case http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge:
			return atlas.Errorf(atlas.CodeSourceError, err, "the model's provider did not accept the request")
		}
	}
	return atlas.Errorf(atlas.CodeSourceUnavailable, err, "the model's provider cannot be reached or is overloaded")
}

// add counts a call. Writing the cache costs a quarter more than reading plain input, reading it a tenth.
func (m *Model) add(u copilot.Usage, x sdk.Usage) copilot.Usage {
	plain, read, write, out := float64(x.InputTokens), float64(x.CacheReadInputTokens), float64(x.CacheCreationInputTokens), float64(x.OutputTokens)
	u.TokensIn += int(x.InputTokens + x.CacheReadInputTokens + x.CacheCreationInputTokens)
	u.TokensOut += int(x.OutputTokens)
	u.CacheRead += int(x.CacheReadInputTokens)
	u.CacheWrite += int(x.CacheCreationInputTokens)
	u.USD += (m.cfg.InUSD*(plain+read*0.1+write*1.25) + m.cfg.OutUSD*out) / 1e6
	return u
}

// textOf joins the text of a message.
func textOf(msg *sdk.Message) string {
	var b strings.Builder
	for _, c := range msg.Content {
		if c.Type == "text" {
			b.WriteString(c.Text)
		}
	}
	return b.String()
}

// decode reads a JSON answer. A cut-off or malformed one is an error; it is never guessed at.
func decode(msg *sdk.Message, v any) error {
	if msg.StopReason == sdk.StopReasonMaxTokens {
		return atlas.Errorf(atlas.CodeTooLarge, nil, "the model's answer was cut off")
	}
	if err := json.Unmarshal([]byte(textOf(msg)), v); err != nil {
		return atlas.Errorf(atlas.CodeSourceError, err, "the model's answer was not of the form asked for")
	}
	return nil
}
