package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"time"

	"github.com/atlas-mcp/atlas"
)

// contentTools answer at once, with every type of content, with errors, and with progress and log
// messages on the way.
func (f *fixtures) contentTools() []*atlas.Tool {
	pixel := atlas.Content{Type: atlas.ContentImage, Data: redPixel(), MIME: "image/png"}
	return []*atlas.Tool{
		simple("test_simple_text", "Answers with text.", text("This is a simple text response for testing.")),
		simple("test_image_content", "Answers with a picture.", pixel),
		simple("test_audio_content", "Answers with a sound.", atlas.Content{Type: atlas.ContentAudio, Data: silence(), MIME: "audio/wav"}),
		simple("test_embedded_resource", "Answers with a resource.", atlas.Content{
			Type: atlas.ContentResource, URI: "test://embedded-resource", MIME: "text/plain", Text: "This is an embedded resource content.",
		}),
		simple("test_multiple_content_types", "Answers with text, a picture and a resource.", text("Multiple content types test:"), pixel,
			atlas.Content{
				Type: atlas.ContentResource, URI: "test://mixed-content-resource", MIME: "application/json", Text: `{"test":"data","value":123}`,
			}),
		{Name: "test_error_handling", Description: "Always fails.", Run: func(context.Context, atlas.Call) (atlas.Result, error) {
			return atlas.Result{}, atlas.Errorf(atlas.CodeInvalidQuery, nil, "This tool intentionally returns an error for testing")
		}},
		{Name: "test_tool_with_logging", Description: "Logs three messages while it runs.", Run: logging},
		{Name: "test_tool_with_progress", Description: "Tells its progress three times while it runs.", Run: progressing},
		{Name: "test_logging_tool", Description: "Logs a message, which only a client that asked for it hears.", Run: logging},
		{Name: "test_streaming_elicitation", Description: "Tells its progress on a stream that must carry nothing else.", Run: progressing},
		simple("test_reconnection", "Answers whatever becomes of the stream.", text("Reconnection test completed successfully.")),
		f.trigger("test_trigger_tool_change", "Reloads the configuration, which changes the list of tools."),
		f.trigger("test_trigger_prompt_change", "Reloads the configuration, which changes the list of prompts."),
		{Name: "json_schema_2020_12_tool", Description: "Has an input schema with the vocabulary of JSON Schema 2020-12.", Input: json.RawMessage(`{
			"$schema": "https://json-schema.org/draft/2020-12/schema",
			"type": "object",
			"$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
			"properties": {
				"name": {"type": "string"},
				"address": {"$ref": "#/$defs/address"},
				"contactMethod": {"type": "string", "enum": ["phone", "email"]},
				"phone": {"type": "string"},
				"email": {"type": "string"}
			},
			"allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
			"if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
			"then": {"required": ["phone"]},
			"else": {"required": ["email"]},
			"additionalProperties": false}`), Run: answer(text("ok"))},
		{Name: "test_x_mcp_header", Description: "Has an argument that clients mirror into a header (SEP-2243).", Input: json.RawMessage(`{
			"type": "object",
			"properties": {
				"region": {"type": "string", "x-mcp-header": "Region"},
				"level": {"type": "integer"}
			},
			"additionalProperties": false}`), Run: answer(text("ok"))},
	}
}

func logging(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	for i, line := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
		if i > 0 {
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return atlas.Result{}, err
			}
		}
		if call.Peer != nil {
			call.Peer.Log(atlas.LogInfo, call.Tool.Name, line)
		}
	}
	return say("Tool with logging executed successfully")
}

func progressing(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	for i, done := range []float64{0, 50, 100} {
		if i > 0 {
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return atlas.Result{}, err
			}
		}
		if call.Peer != nil {
			call.Peer.Progress(done, 100, "")
		}
	}
	return say("Tool with progress executed successfully")
}

// redPixel is a PNG picture of one red pixel.
func redPixel() []byte {
	img := image.NewPaletted(image.Rect(0, 0, 1, 1), color.Palette{color.RGBA{R: 0xff, A: 0xff}})
	var b bytes.Buffer
	_ = png.Encode(&b, img) // a buffer takes everything
	return b.Bytes()
}

// silence is a WAV file of one silent sample.
func silence() []byte {
	const rate, sample = 8000, 2
	b := []byte("RIFF")
	b = binary.LittleEndian.AppendUint32(b, 36+sample)
	b = append(b, "WAVEfmt "...)
	b = binary.LittleEndian.AppendUint32(b, 16)
	b = binary.LittleEndian.AppendUint16(b, 1) // PCM
	b = binary.LittleEndian.AppendUint16(b, 1) // channel
	b = binary.LittleEndian.AppendUint32(b, rate)
	b = binary.LittleEndian.AppendUint32(b, rate*sample)
	b = binary.LittleEndian.AppendUint16(b, sample)
	b = binary.LittleEndian.AppendUint16(b, 8*sample)
	b = append(b, "data"...)
	b = binary.LittleEndian.AppendUint32(b, sample)
	return append(b, make([]byte, sample)...)
}
