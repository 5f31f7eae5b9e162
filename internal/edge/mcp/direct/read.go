package direct

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// acceptable checks method, media type and what the client can read. If they are wrong it answers and
// reports false. It tells whether the client reads event streams.
func (s *Server) acceptable(w http.ResponseWriter, r *http.Request) (stream, ok bool) {
	if r.Method != http.MethodPost {
		allow := "POST"
		if s.deps.Sealer != nil {
			allow = "POST, DELETE"
		}
		w.Header().Set("Allow", allow)
		edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "use POST"), http.StatusMethodNotAllowed)
		return false, false
	}
	if ct := r.Header["Content-Type"]; len(ct) != 1 || ct[0] != "application/json" && !isJSON(ct[0]) {
		edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "send application/json"), http.StatusUnsupportedMediaType)
		return false, false
	}
	// Who decodes such a body reads another message than is read here.
	if ce := r.Header["Content-Encoding"]; len(ce) > 0 && (len(ce) > 1 || !strings.EqualFold(ce[0], "identity")) {
		edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "send the body as it is, without Content-Encoding"), http.StatusUnsupportedMediaType)
		return false, false
	}
	plain, stream := accepts(r.Header["Accept"])
	if !plain {
		edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "accept application/json and text/event-stream"), http.StatusNotAcceptable)
		return false, false
	}
	return stream, true
}

func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && t == "application/json"
}

// accepts reports whether a client reads JSON, and event streams. One that does not say reads what it
// is given, and is given JSON.
func accepts(values []string) (plain, stream bool) {
	if len(values) == 0 {
		return true, false
	}
	for _, v := range values {
		if v == "application/json, text/event-stream" { // what nearly all send
			return true, true
		}
		for item := range strings.SplitSeq(v, ",") {
			t, params, _ := strings.Cut(item, ";")
			if strings.ReplaceAll(params, " ", "") == "q=0" {
				continue
			}
			switch strings.ToLower(strings.TrimSpace(t)) {
			case "application/json", "application/*":
				plain = true
			case "text/event-stream", "text/*":
				stream = true
			case "*/*":
				plain, stream = true, true
			}
		}
	}
	return plain, stream
}

// maxPromised is how many bytes of memory a request gets for saying that it will send as many. For more
// it has to send them.
const maxPromised = 64 << 10

// readBody reads the body. If that fails it answers and reports false.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	var body []byte
	var err error
	if n := r.ContentLength; n >= 0 && n <= maxPromised {
		body = make([]byte, n)
		_, err = io.ReadFull(r.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(r.Body, s.cfg.MaxBody+1))
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || int64(len(body)) > s.cfg.MaxBody || r.ContentLength > s.cfg.MaxBody {
		w.Header().Set("Connection", "close") // rather than read the rest
		edge.WriteFailure(w, atlas.Errorf(atlas.CodeTooLarge, nil, fmt.Sprintf("a request may have %d bytes", s.cfg.MaxBody)))
		return nil, false
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, err, "the request took too long to arrive"), http.StatusRequestTimeout)
		return nil, false
	}
	if err != nil {
		edge.WriteFailure(w, atlas.Errorf(atlas.CodeInvalidArguments, err, "the request could not be read"))
		return nil, false
	}
	// From here on only the call takes time. A read deadline that passed would look like a client
	// that has gone.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // not all writers can
	return body, true
}

// newBody returns a body that was read before.
func newBody(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }
