#!/bin/sh
# Makes the account that Atlas uses, which is no administrator, and the bucket that it owns. Doing it again
# changes nothing. The administrator's credentials are in the environment (ADMIN_ACCESS_KEY, ADMIN_SECRET_KEY).
set -eu
if versitygw admin list-users | grep -qw "$S3_ACCESS_KEY"; then
	versitygw admin update-user --access "$S3_ACCESS_KEY" --secret "$S3_SECRET_KEY" --role user
else
	versitygw admin create-user --access "$S3_ACCESS_KEY" --secret "$S3_SECRET_KEY" --role user
fi
versitygw admin list-buckets | grep -qw "$S3_BUCKET" || versitygw admin create-bucket --owner "$S3_ACCESS_KEY" --bucket "$S3_BUCKET"
