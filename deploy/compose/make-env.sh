#!/bin/sh
# Writes .env beside docker-compose.yml with random passwords, which compose reads by itself. It never
# changes one that is there: the stores keep the passwords that they were made with.
#
#   sh deploy/compose/make-env.sh
set -eu
cd "$(dirname "$0")/../.."
if [ -e .env ]; then
	echo '.env is there already and stays as it is' >&2
	exit 1
fi
umask 077
{
	echo '# Made by deploy/compose/make-env.sh. Keep it secret, and keep it: the volumes know these passwords.'
	for name in POSTGRES_PASSWORD ATLAS_OWNER_PASSWORD ATLAS_APP_PASSWORD ATLAS_STATE_OWNER_PASSWORD ATLAS_STATE_PASSWORD \
		REDIS_PASSWORD S3_ROOT_PASSWORD S3_SECRET_KEY GRAFANA_PASSWORD; do
		printf '%s=%s\n' "$name" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" # letters and digits: they stand in URLs
	done
	printf 'ATLAS_REDIS_BUS_KEY=%s\n' "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
} >.env
echo 'wrote .env' >&2
