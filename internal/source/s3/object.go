package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

var (
	_ source.Config      = (*Config)(nil)
	_ source.Migrator    = (*Config)(nil)
	_ source.ObjectStore = (*Bucket)(nil)
	_ source.Linker      = (*Bucket)(nil)
	_ source.Loader      = (*Bucket)(nil)
)

// Get implements source.ObjectStore. It asks the server for the first maxBytes of the object only (0
// means the configured limit) and sets Truncated if there is more.
func (b *Bucket) Get(ctx context.Context, tenant atlas.TenantID, key string, maxBytes int64) (source.Object, error) {
	var o source.Object
	err := b.do(ctx, func() error {
		if maxBytes < 0 {
			return atlas.Errorf(atlas.CodeInvalidArguments, nil, "max_bytes is negative").With("argument", "max_bytes")
		}
		path, err := b.path(tenant, key)
		if err != nil {
			return err
		}
		limit := b.cfg.MaxObjectBytes
		if maxBytes > 0 {
			limit = min(limit, maxBytes)
		}
		in := &s3.GetObjectInput{Bucket: &b.cfg.Bucket, Key: &path, ExpectedBucketOwner: b.owner(), Range: aws.String("bytes=0-" + strconv.FormatInt(limit-1, 10))}
		out, err := b.client.GetObject(ctx, in)
		if status(err) == http.StatusRequestedRangeNotSatisfiable { // an empty object has no first byte
			in.Range = nil
			out, err = b.client.GetObject(ctx, in)
		}
		if err != nil {
			return err
		}
		defer out.Body.Close() //nolint:errcheck // read to its end, or given up
		content, err := io.ReadAll(io.LimitReader(out.Body, limit+1))
		if err != nil {
			return err
		}
		size, err := wholeSize(out, int64(len(content)))
		if err != nil {
			return err
		}
		if int64(len(content)) < min(size, limit) {
			return io.ErrUnexpectedEOF
		}
		o = source.Object{
			ObjectInfo:  source.ObjectInfo{Key: key, Size: size, Modified: seconds(out.LastModified)},
			ContentType: source.ContentType(key), Content: content[:min(int64(len(content)), limit)], Truncated: size > limit,
		}
		return nil
	})
	if err != nil {
		return source.Object{}, err
	}
	return o, nil
}

// wholeSize returns the size of the object of which an answer may hold a part.
func wholeSize(out *s3.GetObjectOutput, got int64) (int64, error) {
	if out.ContentRange == nil {
		if out.ContentLength != nil {
			return max(*out.ContentLength, got), nil
		}
		return got, nil
	}
	_, total, ok := strings.Cut(*out.ContentRange, "/") // bytes 0-99/1234
	size, err := strconv.ParseInt(total, 10, 64)
	if !ok || err != nil || size < got {
		return 0, fmt.Errorf("content range %q of %d bytes", *out.ContentRange, got)
	}
	return size, nil
}

// seconds is a time as both a listing and a header give it.
func seconds(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second)
}

// unfinished are the files that versitygw (1.8) lists while it replaces an object.
var unfinished = regexp.MustCompile(`(^|/)\.[^/]+\.sgwtmp\.[0-9]+$`)

// List implements source.ObjectStore: the objects whose keys begin with prefix, sorted by key (as the
// server sorts them: by bytes), at most limit of them (0 means the configured limit).
func (b *Bucket) List(ctx context.Context, tenant atlas.TenantID, prefix string, limit int) ([]source.ObjectInfo, error) {
	var infos []source.ObjectInfo
	err := b.do(ctx, func() error {
		if err := source.CheckPrefix(prefix); err != nil {
			return err
		}
		if limit < 0 {
			return atlas.Errorf(atlas.CodeInvalidArguments, nil, "limit is negative").With("argument", "limit")
		}
		if limit == 0 || limit > b.cfg.MaxList {
			limit = b.cfg.MaxList
		}
		own, err := b.prefix(tenant)
		if err != nil {
			return err
		}
		in := &s3.ListObjectsV2Input{Bucket: &b.cfg.Bucket, Prefix: aws.String(own + prefix), ExpectedBucketOwner: b.owner()}
		for len(infos) < limit {
			in.MaxKeys = aws.Int32(int32(min(limit-len(infos), 1000, math.MaxInt32))) //nolint:gosec // bounded
			page, err := b.client.ListObjectsV2(ctx, in)
			if err != nil {
				return err
			}
			for _, o := range page.Contents {
				key, ok := strings.CutPrefix(aws.ToString(o.Key), own)
				if !ok || !strings.HasPrefix(key, prefix) {
					// What belongs to another must not pass, whatever the server thinks a prefix is.
					return atlas.Errorf(atlas.CodeInternal, errors.New("s3: the server listed a key outside the prefix that was asked for"), "")
				}
				if source.CheckKey(key) != nil || unfinished.MatchString(key) || len(infos) == limit {
					continue // not an object: it could not be asked for
				}
				infos = append(infos, source.ObjectInfo{Key: key, Size: aws.ToInt64(o.Size), Modified: seconds(o.LastModified)})
			}
			if !aws.ToBool(page.IsTruncated) || aws.ToString(page.NextContinuationToken) == "" {
				return nil
			}
			in.ContinuationToken = page.NextContinuationToken
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// Put implements source.ObjectStore: the object is there whole or not at all. The content type is what
// the key's extension says. Codes: too_large; invalid_arguments where the server keeps objects as
// files and one is in the way.
func (b *Bucket) Put(ctx context.Context, tenant atlas.TenantID, key string, o source.Object) error {
	return b.do(ctx, func() error {
		path, err := b.path(tenant, key)
		if err != nil {
			return err
		}
		if int64(len(o.Content)) > b.cfg.MaxObjectBytes {
			return atlas.Errorf(atlas.CodeTooLarge, nil, "the object is larger than the limit").With("limit_bytes", b.cfg.MaxObjectBytes)
		}
		_, err = b.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &b.cfg.Bucket, Key: &path, ExpectedBucketOwner: b.owner(), Body: bytes.NewReader(o.Content),
			ContentLength: aws.Int64(int64(len(o.Content))), ContentType: aws.String(source.ContentType(key)),
		})
		return err
	})
}

// Links implements source.Linker.
func (b *Bucket) Links() bool { return b.cfg.Links.Enabled }

// Link implements source.Linker by a presigned GET. It asks the server whether the object is there
// first, so that nobody is handed a dead link.
func (b *Bucket) Link(ctx context.Context, tenant atlas.TenantID, key string) (string, time.Time, error) {
	var link string
	var expires time.Time
	err := b.do(ctx, func() error {
		path, err := b.path(tenant, key)
		if err != nil {
			return err
		}
		if !b.cfg.Links.Enabled {
			return atlas.Errorf(atlas.CodeSourceMisused, errors.New("s3: links are not enabled"), "")
		}
		if _, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.cfg.Bucket, Key: &path, ExpectedBucketOwner: b.owner()}); err != nil {
			return err
		}
		expires = time.Now().Add(b.cfg.Links.TTL).UTC().Truncate(time.Second)
		req, err := b.presign.PresignGetObject(ctx, &s3.GetObjectInput{
			Bucket: &b.cfg.Bucket, Key: &path,
			// What a tenant stored must not run in a browser on the server's origin.
			ResponseContentDisposition: aws.String("attachment"), ResponseContentType: aws.String(source.ContentType(key)),
		}, s3.WithPresignExpires(b.cfg.Links.TTL))
		if err != nil {
			return err
		}
		link = req.URL
		return nil
	})
	return link, expires, err
}

// Load implements source.Loader with data.Objects. Their times are those of the loading.
func (b *Bucket) Load(ctx context.Context, tenant atlas.TenantID, data source.Data) error {
	for _, o := range data.Objects {
		if err := b.Put(ctx, tenant, o.Key, o); err != nil {
			return err
		}
	}
	return nil
}
