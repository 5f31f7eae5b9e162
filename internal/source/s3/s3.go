// Package s3 keeps objects in a bucket of an S3-compatible server: Amazon S3, MinIO, versitygw,
// SeaweedFS, Garage, or Google Cloud Storage by its interoperability API. All tenants' objects lie
// in one bucket, each tenant's below a prefix that holds its id; the driver puts the prefix before
// every key, so that no key can name another tenant's object, and checks it on what comes back.
//
// Retries are left to the retry stage: the client makes one attempt.
package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Config are the driver's settings.
type Config struct {
	Bucket    string `yaml:"bucket"`
	Region    string `yaml:"region"`     // default us-east-1
	Endpoint  string `yaml:"endpoint"`   // URL of another server than Amazon's; addressed by path
	AccessKey string `yaml:"access_key"` // without: the AWS SDK's usual chain (environment, files, role of the machine)
	SecretKey string `yaml:"secret_key"`
	Prefix    string `yaml:"prefix"` // before each key; must hold {tenant} as a whole segment and end with a slash. Default "{tenant}/"
	Owner     string `yaml:"owner"`  // account id that must own the bucket; requests to another's bucket of that name then fail

	MaxObjectBytes int64 `yaml:"max_object_bytes"` // largest object to write, and most bytes of one to read; 0 means 16 MiB
	MaxList        int   `yaml:"max_list"`         // most objects in one list; 0 means 1000

	Links Links `yaml:"links"`
}

// Links are presigned URLs: whoever has one can read the object until it ends, without a token.
type Links struct {
	Enabled  bool          `yaml:"enabled"`
	TTL      time.Duration `yaml:"ttl"`      // 1m to 12h; default 5m
	Endpoint string        `yaml:"endpoint"` // URL by which readers reach the server; default: endpoint
}

const (
	tenantMark    = "{tenant}"
	defaultRegion = "us-east-1"
)

func (c Config) withDefaults() Config {
	c.Region = cmp.Or(c.Region, defaultRegion)
	c.Prefix = cmp.Or(c.Prefix, tenantMark+"/")
	c.MaxObjectBytes = cmp.Or(c.MaxObjectBytes, 16<<20)
	c.MaxList = cmp.Or(c.MaxList, 1000)
	c.Links.TTL = cmp.Or(c.Links.TTL, 5*time.Minute)
	c.Links.Endpoint = cmp.Or(c.Links.Endpoint, c.Endpoint)
	return c
}

// bucketName is what all S3-compatible servers take (Amazon's rules for general purpose buckets).
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// Validate reports all mistakes, joined.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !bucketName.MatchString(c.Bucket) || strings.Contains(c.Bucket, "..") {
		bad("bucket must be 3 to 63 of a-z, 0-9, dot and hyphen, is %q", c.Bucket)
	}
	for name, raw := range map[string]string{"endpoint": c.Endpoint, "links.endpoint": c.Links.Endpoint} {
		if raw == "" {
			continue
		}
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
			bad("%s must be a URL such as https://s3.example, without user, path and query", name)
		}
	}
	if (c.AccessKey == "") != (c.SecretKey == "") {
		bad("access_key and secret_key go together")
	}
	d := c.withDefaults()
	segments := strings.Split(strings.TrimSuffix(d.Prefix, "/"), "/")
	marks := 0
	for _, s := range segments {
		if s == tenantMark {
			marks++
		}
	}
	if !strings.HasSuffix(d.Prefix, "/") || marks != 1 || strings.Count(d.Prefix, "{")+strings.Count(d.Prefix, "}") != 2 ||
		source.CheckKey(strings.TrimSuffix(d.Prefix, "/")) != nil || len(d.Prefix) > 200 {
		bad(`prefix must hold {tenant} as one whole segment and end with a slash, such as "tenants/{tenant}/", is %q`, c.Prefix)
	}
	if c.MaxObjectBytes < 0 || c.MaxObjectBytes > 1<<30 {
		bad("max_object_bytes must be between 1 and 1073741824, is %d", c.MaxObjectBytes)
	}
	if c.MaxList < 0 || c.MaxList > 10_000 {
		bad("max_list must be between 1 and 10000, is %d", c.MaxList)
	}
	if d.Links.TTL < time.Minute || d.Links.TTL > 12*time.Hour {
		bad("links.ttl must be between 1m and 12h, is %s", c.Links.TTL)
	}
	return errors.Join(errs...)
}

// Open makes the client. It asks the server nothing: Ping does.
func (c *Config) Open(ctx context.Context, _ source.Deps) (source.Source, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return nil, err
	}
	cfg := c.withDefaults()
	options := []func(*config.LoadOptions) error{
		config.WithRegion(cfg.Region),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		// Servers other than Amazon's do not know its newer checksums.
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if cfg.AccessKey != "" {
		options = append(options, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(cfg.AccessKey, cfg.SecretKey, "")))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64,
		IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
	}
	// A redirect could lead the signed request, or the reader, to another server.
	loaded.HTTPClient = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	client := func(endpoint string) *s3.Client {
		return s3.NewFromConfig(loaded, func(o *s3.Options) {
			if endpoint != "" {
				o.BaseEndpoint, o.UsePathStyle = &endpoint, true
			}
		})
	}
	return &Bucket{
		cfg: cfg, client: client(cfg.Endpoint), presign: s3.NewPresignClient(client(cfg.Links.Endpoint)),
		idle: transport.CloseIdleConnections,
	}, nil
}

// Migrate implements source.Migrator: it makes the bucket if there is none.
func (c *Config) Migrate(ctx context.Context, deps source.Deps) error {
	src, err := c.Open(ctx, deps)
	if err != nil {
		return err
	}
	b := src.(*Bucket)
	err = b.do(ctx, func() error {
		_, err := b.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.cfg.Bucket, ExpectedBucketOwner: b.owner()})
		if err == nil || status(err) != http.StatusNotFound {
			return err
		}
		in := &s3.CreateBucketInput{Bucket: &b.cfg.Bucket}
		if b.cfg.Region != defaultRegion { // of which S3 must not be told
			in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(b.cfg.Region)}
		}
		_, err = b.client.CreateBucket(ctx, in)
		return err
	})
	return errors.Join(err, b.Close())
}

// A Bucket is an open bucket. It implements source.ObjectStore, source.Linker and source.Loader.
type Bucket struct {
	cfg     Config
	client  *s3.Client
	presign *s3.PresignClient
	idle    func() // closes idle connections

	mu     sync.RWMutex // held for reading by every call; guards closed
	closed bool
}

// Ping asks whether the bucket is there and may be listed.
func (b *Bucket) Ping(ctx context.Context) error {
	return b.do(ctx, func() error {
		_, err := b.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.cfg.Bucket, ExpectedBucketOwner: b.owner()})
		if err != nil && status(err) == http.StatusNotFound { // a HEAD has no body that would tell
			return atlas.Errorf(atlas.CodeSourceMisused, err, "")
		}
		return err
	})
}

// Close lets running calls end and closes idle connections.
func (b *Bucket) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.idle()
	return nil
}

// do runs fn unless the bucket is closed or ctx has ended, and gives its failure a code.
func (b *Bucket) do(ctx context.Context, fn func() error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("source is closed"), "")
	}
	if err := ctx.Err(); err != nil {
		return atlas.ErrorOf(err)
	}
	return failure(ctx, fn())
}

func (b *Bucket) owner() *string {
	if b.cfg.Owner == "" {
		return nil
	}
	return &b.cfg.Owner
}

// prefix returns what stands before each of the tenant's keys. A tenant id holds no slash, so that
// no tenant's prefix begins another's.
func (b *Bucket) prefix(tenant atlas.TenantID) (string, error) {
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return "", atlas.Errorf(atlas.CodeInternal, err, "")
	}
	return strings.Replace(b.cfg.Prefix, tenantMark, string(tenant), 1), nil
}

// maxKey is the longest key of an object in S3, in bytes.
const maxKey = 1024

// path returns the key in the bucket of a tenant's key.
func (b *Bucket) path(tenant atlas.TenantID, key string) (string, error) {
	if err := source.CheckKey(key); err != nil {
		return "", err
	}
	prefix, err := b.prefix(tenant)
	if err != nil {
		return "", err
	}
	if len(prefix)+len(key) > maxKey {
		return "", atlas.Errorf(atlas.CodeInvalidArguments, nil, "key is too long").With("argument", "key")
	}
	return prefix + key, nil
}
