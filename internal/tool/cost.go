package tool

import (
	"encoding/json"

	"github.com/atlas-mcp/atlas"
)

// Cost estimates how many tokens the definition of t takes in a model's context: name, description
// and input schema, which is what hosts send. Tokenizers differ by model and most are not public;
// 3.5 bytes a token is near to what current ones make of JSON Schema in English.
func Cost(t *atlas.Tool) int {
	data := encode(struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Input       json.RawMessage `json:"input_schema"`
	}{t.Name, t.Description, t.Input})
	return (2*len(data) + 6) / 7
}
