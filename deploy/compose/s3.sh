#!/bin/sh
# Starts versitygw over the folders of one volume: objects, their attributes, and the accounts.
set -eu
mkdir -p /data/objects /data/attributes /data/accounts
exec versitygw --port :9000 --webui :9001 --webui-gateways "$S3_PUBLIC_URL" --cors-allow-origin "$S3_CONSOLE_URL" \
	--health /health --iam-dir /data/accounts posix --sidecar /data/attributes /data/objects
