package atlas

// A ContentType says what a block of content is (MCP, server/tools "Tool Result").
type ContentType string

// The content types.
const (
	ContentText         ContentType = "text"
	ContentImage        ContentType = "image"
	ContentAudio        ContentType = "audio"
	ContentResource     ContentType = "resource"      // the text or bytes of a resource
	ContentResourceLink ContentType = "resource_link" // only its URI
)

// Content is one block of an answer that is not, or not only, one JSON object: text, a picture, a
// document. For a prompt it is one message, for a listing of resources one entry.
type Content struct {
	Type ContentType
	Role string // of a prompt's message: "user" or "assistant"; else empty
	Text string // of text, and of a resource that is text
	Data []byte // of image and audio, and of a resource that is not text

	URI         string // of a resource and a link
	Name        string // of a link
	Title       string // of a link, for people
	Description string // of a link
	MIME        string // media type (RFC 6838); empty if unknown
	Size        int64  // of a link, in bytes; 0 if unknown
}

// An Icon is a picture of a tool or of the server (SEP-973).
type Icon struct {
	Src   string   `json:"src" yaml:"src"` // https: or data: URI
	MIME  string   `json:"mimeType,omitempty" yaml:"mime"`
	Sizes []string `json:"sizes,omitempty" yaml:"sizes"` // such as 48x48, or any
	Theme string   `json:"theme,omitempty" yaml:"theme"` // light or dark
}
