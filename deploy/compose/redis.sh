#!/bin/sh
# Starts Redis with one user, who may touch Atlas's keys and channels and has no administrator's commands.
# The password goes in on the standard input, so that no process list shows it.
set -eu
exec redis-server - <<CONF
$(cat /etc/atlas/redis.conf)
user default off
user atlas on >$REDIS_PASSWORD resetkeys ~atlas:* resetchannels &atlas:* -@all +@connection +@keyspace +@read +@write +@scripting +@pubsub +time -@dangerous -@admin +info
CONF
