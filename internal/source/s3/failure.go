package s3

import (
	"context"
	"errors"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/atlas-mcp/atlas"
)

// codes gives the server's error codes one of ours; what is missing goes by the HTTP status.
// The names are Amazon's (S3 API reference, "Error responses") and those of compatible servers.
var codes = map[string]atlas.Code{
	"NoSuchKey":             atlas.CodeNotFound,
	"NoSuchVersion":         atlas.CodeNotFound,
	"NotFound":              atlas.CodeNotFound,
	"NoSuchBucket":          atlas.CodeSourceMisused,
	"AccessDenied":          atlas.CodeSourceMisused,
	"InvalidAccessKeyId":    atlas.CodeSourceMisused,
	"XAdminUserNotFound":    atlas.CodeSourceMisused, // versitygw\'s word for it
	"SignatureDoesNotMatch": atlas.CodeSourceMisused,
	"ExpiredToken":          atlas.CodeSourceMisused,
	"RequestTimeTooSkewed":  atlas.CodeSourceMisused,
	"PermanentRedirect":     atlas.CodeSourceMisused, // the bucket is in another region
	"EntityTooLarge":        atlas.CodeTooLarge,
	"KeyTooLongError":       atlas.CodeInvalidArguments,
	// Servers that keep objects as files: an object is in the way of another one's key.
	"ObjectParentIsFile":            atlas.CodeInvalidArguments,
	"ExistingObjectIsDirectory":     atlas.CodeInvalidArguments,
	"XMinioObjectExistsAsDirectory": atlas.CodeInvalidArguments,
	"XMinioParentIsObject":          atlas.CodeInvalidArguments,
}

// status returns the HTTP status of a failed request, or 0.
func status(err error) int {
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return re.HTTPStatusCode()
	}
	return 0
}

// failure gives an error a code. What the server said stays in Err, for the log.
func failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*atlas.Error](err); ok {
		return e
	}
	if ctx.Err() != nil {
		return atlas.ErrorOf(ctx.Err())
	}
	var name string
	if ae, ok := errors.AsType[smithy.APIError](err); ok {
		name = ae.ErrorCode()
	}
	if code, ok := codes[name]; ok {
		return atlas.Errorf(code, err, "")
	}
	switch s := status(err); {
	case s == 0, s == http.StatusTooManyRequests, s >= http.StatusInternalServerError:
		return atlas.Errorf(atlas.CodeSourceUnavailable, err, "")
	case s == http.StatusNotFound:
		return atlas.Errorf(atlas.CodeNotFound, err, "")
	case s == http.StatusUnauthorized, s == http.StatusForbidden, s >= http.StatusMultipleChoices && s < http.StatusBadRequest:
		return atlas.Errorf(atlas.CodeSourceMisused, err, "")
	}
	return atlas.Errorf(atlas.CodeSourceError, err, "")
}
