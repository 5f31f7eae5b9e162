package copilot

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Config are the limits of one run. The zero Config means the defaults given at each field.
type Config struct {
	Wall      time.Duration `yaml:"wall"`       // the whole run; 60s
	Reserve   time.Duration `yaml:"reserve"`    // kept back from tools for writing and checking; 15s, at most half of Wall
	Rounds    int           `yaml:"rounds"`     // of the retriever; 6
	ToolCalls int           `yaml:"tool_calls"` // 12
	Parallel  int           `yaml:"parallel"`   // tool calls at a time; 4
	TokensIn  int           `yaml:"tokens_in"`  // of all model calls; 60000
	TokensOut int           `yaml:"tokens_out"` // 6000
	USD       float64       `yaml:"usd"`        // 0.50
	Sources   int           `yaml:"sources"`    // evidence records kept; 48
	Words     int           `yaml:"words"`      // of a draft; 180
}

// Limits that are not a matter of taste.
const (
	maxQuestion = 4000 // runes
	maxNeeds    = 5
)

func (c Config) withDefaults() Config {
	c.Wall = cmp.Or(c.Wall, 60*time.Second)
	c.Reserve = min(cmp.Or(c.Reserve, 15*time.Second), c.Wall/2)
	c.Rounds = cmp.Or(c.Rounds, 6)
	c.ToolCalls = cmp.Or(c.ToolCalls, 12)
	c.Parallel = cmp.Or(c.Parallel, 4)
	c.TokensIn = cmp.Or(c.TokensIn, 60_000)
	c.TokensOut = cmp.Or(c.TokensOut, 6_000)
	c.USD = cmp.Or(c.USD, 0.50)
	c.Sources = cmp.Or(c.Sources, 48)
	c.Words = cmp.Or(c.Words, 180)
	return c
}

// Validate reports every limit that is negative or beyond reason.
func (c Config) Validate() error {
	var errs []error
	check := func(name string, v, most float64) {
		if v < 0 || v > most {
			errs = append(errs, fmt.Errorf("copilot.%s: %v is outside 0 to %v (0 means the default)", name, v, most))
		}
	}
	check("wall", c.Wall.Seconds(), 3600)
	check("reserve", c.Reserve.Seconds(), 3600)
	check("rounds", float64(c.Rounds), 20)
	check("tool_calls", float64(c.ToolCalls), 100)
	check("parallel", float64(c.Parallel), 32)
	check("tokens_in", float64(c.TokensIn), 10e6)
	check("tokens_out", float64(c.TokensOut), 1e6)
	check("usd", c.USD, 1000)
	check("sources", float64(c.Sources), 500)
	check("words", float64(c.Words), 1000)
	return errors.Join(errs...)
}
