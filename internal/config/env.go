package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// A Variable is an environment variable that sets one value of the configuration file.
type Variable struct {
	Name      string // such as ATLAS_HTTP_LISTEN
	Path      string // keys joined by dots, such as http.listen
	Component string // heading in .env.example
	Doc       string // one line
	Default   string // as it holds when neither file nor environment says anything
	// Text marks values that must be quoted, so that "123" stays a string.
	Text bool
}

// Overlay sets in v what the environment names, on top of what v holds.
func Overlay(vars []Variable, env func(string) (string, bool), v any) error {
	var errs []error
	for _, variable := range vars {
		value, ok := env(variable.Name)
		if !ok || value == "" {
			continue
		}
		doc, err := document(variable, value)
		if err == nil {
			err = Decode("environment variable "+variable.Name, doc, Resolver{}, v)
		}
		if err != nil {
			e := positioned(variable.Name, err)
			errs = append(errs, fmt.Errorf("environment variable %s: %s", variable.Name, e.Message))
		}
	}
	return errors.Join(errs...)
}

// document returns the YAML file that says what the variable says.
func document(variable Variable, value string) ([]byte, error) {
	var tree any = value
	if !variable.Text {
		if err := yaml.Unmarshal([]byte(value), &tree); err != nil {
			return nil, err
		}
	}
	keys := strings.Split(variable.Path, ".")
	for _, key := range slices.Backward(keys) {
		tree = map[string]any{key: tree}
	}
	return yaml.Marshal(tree)
}
