# syntax=docker/dockerfile:1
# Two stages: the first builds static binaries and writes what the image is made of beside them (an SBOM
# in CycloneDX); the second holds them and nothing else, no shell and no package manager.
#
#   docker build -t atlas-mcp .                      the server and the operator's commands
#   docker build -t atlas-copilot --target copilot . the copilot alone, a client
#
# The tag is pinned. To pin the content too, put the digest behind it, which your registry tells
# (docker buildx imagetools inspect golang:1.26.8-trixie): golang:1.26.8-trixie@sha256:…
ARG GO_IMAGE=docker.io/library/golang:1.26.8-trixie

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG TARGETOS=linux
ARG TARGETARCH=amd64
ARG VERSION=dev
# For builders that reach modules another way; the default is the toolchain's.
ARG GOPROXY=https://proxy.golang.org,direct
ARG GOSUMDB=sum.golang.org
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
WORKDIR /src

# Modules change less often than the code: a layer of their own.
COPY go.mod go.sum ./
COPY deploy/sbom/go.mod deploy/sbom/go.sum ./deploy/sbom/
RUN --mount=type=cache,target=/go/pkg/mod \
    go mod download && go mod download -modfile=deploy/sbom/go.mod

COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    mkdir -p /out/root/usr/local/bin /out/copilot/usr/local/bin && \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/root/usr/local/bin/atlas ./cmd/atlas && \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/copilot/usr/local/bin/atlas-copilot ./cmd/atlas-copilot

# The SBOM is read from the binary, so it lists what was linked and nothing else.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    mkdir -p /out/root/usr/share/sbom /out/copilot/usr/share/sbom && \
    go build -modfile=deploy/sbom/go.mod -o /out/cyclonedx-gomod github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod && \
    /out/cyclonedx-gomod bin -json -std -version "$VERSION" -output /out/root/usr/share/sbom/atlas.cdx.json /out/root/usr/local/bin/atlas && \
    /out/cyclonedx-gomod bin -json -std -version "$VERSION" -output /out/copilot/usr/share/sbom/atlas-copilot.cdx.json /out/copilot/usr/local/bin/atlas-copilot

# What a static binary needs of a system: authorities, time zones, a name for its user, and /tmp.
RUN for r in /out/root /out/copilot; do \
      mkdir -p "$r/etc/ssl/certs" "$r/usr/share" && \
      cp /etc/ssl/certs/ca-certificates.crt "$r/etc/ssl/certs/" && \
      cp -R /usr/share/zoneinfo "$r/usr/share/" && \
      echo 'atlas:x:10001:10001:Atlas:/var/lib/atlas:/nonexistent' > "$r/etc/passwd" && \
      echo 'atlas:x:10001:' > "$r/etc/group" && \
      mkdir -m 1777 "$r/tmp" || exit 1; \
    done && \
    mkdir -p /out/root/etc/atlas && \
    cp -R config/*.yaml config/tools /out/root/etc/atlas/ && \
    mkdir -p /out/owned/var/lib/atlas && chmod 0700 /out/owned/var/lib/atlas

FROM scratch AS copilot
ARG VERSION=dev
LABEL org.opencontainers.image.title="atlas-copilot" \
      org.opencontainers.image.description="Answers support questions with checked citations, over an Atlas server" \
      org.opencontainers.image.source="https://github.com/atlas-mcp/atlas" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /out/copilot/ /
USER 10001:10001
# It is a client that answers and ends: there is nothing to ask for its health.
HEALTHCHECK NONE
ENTRYPOINT ["/usr/local/bin/atlas-copilot"]

FROM scratch AS atlas
ARG VERSION=dev
LABEL org.opencontainers.image.title="atlas-mcp" \
      org.opencontainers.image.description="One governed tool surface between a company's data and AI agents (MCP)" \
      org.opencontainers.image.source="https://github.com/atlas-mcp/atlas" \
      org.opencontainers.image.documentation="https://github.com/atlas-mcp/atlas/blob/main/docs/deploy.md" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /out/root/ /
COPY --from=build --chown=10001:10001 /out/owned/ /
USER 10001:10001
# Production unless it is said otherwise: an image that was started without a configuration of its own
# refuses to serve the demo company to a network.
ENV ATLAS_MODE=production \
    ATLAS_CONFIG=/etc/atlas/atlas.yaml \
    ATLAS_DATA_DIR=/var/lib/atlas \
    ATLAS_HTTP_LISTEN=0.0.0.0:8080
VOLUME ["/var/lib/atlas"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/atlas", "health"]
ENTRYPOINT ["/usr/local/bin/atlas"]
CMD ["serve"]
