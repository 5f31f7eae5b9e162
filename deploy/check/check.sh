#!/usr/bin/env bash
# Checks the deployment files with the programs that would read them, without an engine where there is none:
#
#   make compose-check
#
#   compose  docker compose reads every combination of files, and refuses a production without passwords
#   lint     tally (with hadolint's rules) reads the Dockerfile, dclint the compose files
#   rules    promtool reads Prometheus's configuration and runs the alerts' tests
#   otel     the collector's own check reads its configuration (only where otelcol is on the PATH)
#   sbom     the SBOM of both binaries is made, and holds to CycloneDX's schema
#   stores   the scripts of Redis, S3 and Postgres run, with the rights that compose gives to Atlas
#   image    the Dockerfile is built and run: no root, nothing writable, healthy (docker, or buildah with podman)
#
# A check whose programs cannot be had is skipped, and says so. With CI set it fails if it is one of
# REQUIRED (compose, lint, rules and sbom, unless that variable says otherwise). ONLY="compose image" runs these alone.
# Functions are called by name, lists of && end in a word that cannot fail, traps know their words when they are set,
# and the engine is a program with its flags.
# shellcheck disable=SC2012,SC2015,SC2064,SC2086,SC2317
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD
tools=$here/.cache/deploy-tools
required=${REQUIRED-compose lint rules sbom}
only=${ONLY-compose lint rules otel sbom stores image}
compose_version=v2.40.3 tally_version=0.45.0 dclint_version=3.1.0 cyclonedx_version=11.12.0
failed=() skipped=()
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$tools"

say() { printf '%-8s %s\n' "$1" "$2"; }
have() { command -v "$1" >/dev/null; }
free_port() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])'; }
must() { "$@" || { echo "failed: $*"; exit 1; }; }
must_not() { if "$@"; then echo "went through: $*"; exit 1; fi; }
same() { [ "$1" = "$2" ] || { echo "is $1, want $2"; exit 1; }; }

# check NAME runs one in a process of its own, whose exit code 9 means that it cannot be done here. (In a
# function behind || the shell would go on after a fault.)
check() {
	local name=$1 rc=0
	case " $only " in *" $name "*) ;; *) return 0 ;; esac
	bash "$0" --one "$name" >"$work/$name.log" 2>&1 || rc=$?
	case $rc in
	0) say "$name" "ok: $(sed -n 's/^result: //p' "$work/$name.log")" ;;
	9)
		skipped+=("$name")
		say "$name" "skipped: $(sed -n 's/^result: //p' "$work/$name.log")"
		;;
	*)
		failed+=("$name")
		say "$name" "FAILED"
		sed 's/^/         /' "$work/$name.log"
		;;
	esac
}
result() { echo "result: $*"; }
cannot() {
	result "$*"
	exit 9
}

# compose_program finds docker compose, or builds it from its module: no engine is needed to read files.
compose_program() {
	if docker compose version >/dev/null 2>&1; then echo "docker compose"; return; fi
	local bin=$tools/docker-compose-$compose_version
	if [ ! -x "$bin" ]; then
		mkdir -p "$work/wrapper"
		printf 'module wrapper\n\ngo 1.26\n' >"$work/wrapper/go.mod"
		echo 'package wrapper' >"$work/wrapper/wrapper.go"
		(cd "$work/wrapper" && go get -tool "github.com/docker/compose/v2/cmd@$compose_version" &&
			go build -trimpath -ldflags '-s -w' -o "$bin.new" github.com/docker/compose/v2/cmd) >&2 || return 1
		mv "$bin.new" "$bin"
	fi
	echo "$bin"
}

check_compose() {
	local dc files n=0
	dc=$(compose_program) || cannot "docker compose cannot be had"
	: >"$work/empty.env"
	for files in "" deploy/compose/ports.yaml deploy/compose/elasticsearch.yaml "deploy/compose/ports.yaml deploy/compose/elasticsearch.yaml"; do
		local args=()
		for f in $files; do args+=(-f "$f"); done
		$dc --env-file "$work/empty.env" -f docker-compose.yml "${args[@]}" --profile '*' config -q
		n=$((n + 1))
	done
	if $dc --env-file "$work/empty.env" -f docker-compose.yml -f deploy/compose/production.yaml config -q 2>"$work/refused"; then
		echo "production starts without passwords"
		return 1
	fi
	grep -q 'required variable' "$work/refused"
	# As make-env.sh writes it, in a copy of its own.
	mkdir -p "$work/copy/deploy" && cp -R deploy/compose "$work/copy/deploy/" && sh "$work/copy/deploy/compose/make-env.sh"
	same "$(stat -c %a "$work/copy/.env")" 600
	must_not sh "$work/copy/deploy/compose/make-env.sh"
	printf 'ATLAS_VERSION=1.0.0\nATLAS_PUBLIC_URL=https://atlas.example\nATLAS_CONFIG_DIR=%s\n' "$work" >>"$work/copy/.env"
	$dc --env-file "$work/copy/.env" -f docker-compose.yml -f deploy/compose/production.yaml config >"$work/production.yaml"
	# The blocks that services are made from are printed, too.
	awk '/^[a-z]/ {on = /^services:/} on && !/ACCESS_KEY: /' "$work/production.yaml" >"$work/production.rest"
	must grep -q 'ATLAS_MODE: production' "$work/production.rest"
	must_not grep -E 'dev-only|dev-token|ATLAS_MODE: development|minioadmin' "$work/production.rest"
	result "$n combinations of files are read; production refuses to start without passwords and takes those of make-env.sh"
}

check_lint() {
	have npm || cannot "npm is not here (install Node.js)"
	local at=$tools/lint-$tally_version-$dclint_version
	if [ ! -d "$at/node_modules" ]; then
		mkdir -p "$at"
		npm install --prefix "$at" --no-audit --no-fund --ignore-scripts "@wharflab/tally-linux-x64@$tally_version" "dclint@$dclint_version" || cannot "tally and dclint cannot be had"
	fi
	# Not taken: taste, and four that do not fit an image made from scratch with two targets.
	"$at/node_modules/@wharflab/tally-linux-x64/bin/tally" lint --fail-level info \
		--ignore 'tally/newline-*' --ignore tally/max-lines --ignore tally/prefer-run-heredoc --ignore tally/prefer-package-cache-mounts \
		--ignore tally/no-unreachable-stages --ignore tally/world-writable-state-path-workaround --ignore tally/labels/no-buildx-git-overlap Dockerfile
	"$at/node_modules/.bin/dclint" --max-warnings 0 -c deploy/check/dclint.yaml docker-compose.yml
	have shellcheck && shellcheck deploy/compose/*.sh deploy/check/*.sh
	for f in deploy/compose/*.sh; do sh -n "$f"; done
	result "the Dockerfile, the compose file and the scripts hold to the linters' rules"
}

check_rules() {
	have promtool || cannot "promtool is not here (apt-get install prometheus)"
	(cd deploy/prometheus && promtool check config prometheus.yml && promtool test rules rules_test.yml)
	result "$(grep -c 'alert:' deploy/prometheus/rules.yml) alerts, each tested to fire and to be silent"
}

check_otel() {
	have otelcol || cannot "otelcol is not here"
	otelcol validate --config deploy/otel/collector.yaml
	result "the collector reads its configuration"
}

check_sbom() {
	make -s sbom >&2
	have python3 || cannot "made; python3 is not here to check it"
	local venv=$tools/cyclonedx-$cyclonedx_version
	if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import cyclonedx, jsonschema' 2>/dev/null; then
		python3 -m venv "$venv" && "$venv/bin/pip" install -q "cyclonedx-python-lib[json-validation]==$cyclonedx_version" || cannot "made; the schema cannot be had"
	fi
	"$venv/bin/python" deploy/check/sbom.py dist/*.cdx.json
}

# The scripts of the stores, natively. What they must refuse is as important as what they must allow.
check_stores() {
	have redis-server && have redis-cli || cannot "redis-server is not here (apt-get install redis-server)"
	local port out told=Redis
	port=$(free_port)
	sed "s#^port .*#port $port#; s#^bind .*#bind 127.0.0.1#; s#^dir .*#dir $work#" deploy/compose/redis.conf >"$work/redis.conf"
	sed "s#/etc/atlas/redis.conf#$work/redis.conf#" deploy/compose/redis.sh >"$work/redis.sh"
	REDIS_PASSWORD=secret sh "$work/redis.sh" &
	local redis=$!
	trap "kill $redis; rm -rf $work" EXIT
	ask() { REDISCLI_AUTH=secret redis-cli -p "$port" --user atlas "$@" 2>&1 || true; }
	for _ in $(seq 50); do
		[ "$(ask ping)" = PONG ] && break
		sleep 0.1
	done
	same "$(ask ping)" PONG
	same "$(ask set atlas:x 1)" OK
	same "$(ask publish atlas:bus x)" 0
	for refused in "set other 1" "get other" "publish other x" flushall "config get maxmemory" "acl list" shutdown; do
		# shellcheck disable=SC2086 # words of one command
		out=$(ask $refused)
		case $out in NOPERM*) ;; *) echo "Redis lets Atlas's user $refused: $out" && exit 1 ;; esac
	done
	case $(redis-cli -p "$port" ping 2>&1) in NOAUTH*) ;; *) echo "Redis answers without a password" && exit 1 ;; esac
	must_not grep -qa secret "/proc/$redis/cmdline"

	local gateway
	gateway=$(command -v versitygw || ls .cache/versitygw-*/versitygw 2>/dev/null | head -n 1)
	if [ -n "$gateway" ] && have curl; then
		local api console
		api=$(free_port) console=$(free_port)
		ln -s "$(realpath "$gateway")" "$work/versitygw"
		sed "s#/data/#$work/s3/#g; s#:9000#127.0.0.1:$api#; s#:9001#127.0.0.1:$console#" deploy/compose/s3.sh >"$work/s3.sh"
		PATH=$work:$PATH ROOT_ACCESS_KEY=root ROOT_SECRET_KEY=rootroot S3_PUBLIC_URL=http://127.0.0.1:$api S3_CONSOLE_URL=http://127.0.0.1:$console sh "$work/s3.sh" >"$work/s3.log" 2>&1 &
		trap "kill $redis $!; rm -rf $work" EXIT
		must curl -sf -m 3 --retry 20 --retry-connrefused --retry-delay 1 -o /dev/null "http://127.0.0.1:$api/health"
		must curl -sf -m 3 -o /dev/null "http://127.0.0.1:$console/"
		for _ in 1 2; do # the second time it is all there
			PATH=$work:$PATH ADMIN_ENDPOINT_URL=http://127.0.0.1:$api ADMIN_ACCESS_KEY=root ADMIN_SECRET_KEY=rootroot \
				S3_BUCKET=atlas-mcp-data S3_ACCESS_KEY=atlas S3_SECRET_KEY=secret sh deploy/compose/s3-setup.sh
		done
		must_not env ADMIN_ENDPOINT_URL="http://127.0.0.1:$api" ADMIN_ACCESS_KEY=atlas ADMIN_SECRET_KEY=secret "$work/versitygw" admin list-users
		told="$told, S3"
	fi

	local bin
	bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
	if [ -n "$bin" ] && [ "$(id -u)" = 0 ] && id postgres >/dev/null 2>&1; then
		local pg=$work/pg
		chmod 755 "$work" && mkdir "$pg" && cp -R deploy/sql "$pg/sql"
		sed "s#/etc/atlas/sql#$pg/sql#; /CREATE EXTENSION/d" deploy/compose/postgres.sh >"$pg/init.sh" # pgvector is the image's
		chmod -R a+rX "$pg" && chown postgres "$pg"
		port=$(free_port)
		as() { su postgres -s /bin/sh -c "cd / && PATH=$bin:\$PATH $*"; }
		as initdb -D "$pg/data" --auth-local=trust --auth-host=scram-sha-256 -U postgres --no-sync -E UTF8 --locale=C >/dev/null
		as pg_ctl -D "$pg/data" -o "'-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$pg -c fsync=off'" -l "$pg/log" -w start >/dev/null
		trap "kill $redis $!; su postgres -s /bin/sh -c '$bin/pg_ctl -D $pg/data -m immediate stop' >/dev/null; rm -rf $work" EXIT
		as PGHOST="$pg" PGPORT="$port" POSTGRES_USER=postgres ATLAS_OWNER_PASSWORD=owner ATLAS_APP_PASSWORD="\"a'b\"" ATLAS_STATE_OWNER_PASSWORD=stateowner ATLAS_STATE_PASSWORD=state sh "$pg/init.sh"
		sql() { PGPASSWORD=$1 "$bin/psql" -h 127.0.0.1 -p "$port" -U "$2" -d "$3" -tAqc "$4"; }
		same "$(sql "a'b" atlas_app atlas 'SELECT 1')" 1
		same "$(sql state atlas_state atlas_state 'SELECT 2')" 2
		same "$(sql owner atlas_owner atlas 'CREATE TABLE x (); DROP TABLE x; SELECT 3')" 3
		same "$(sql stateowner atlas_state_owner atlas_state 'CREATE SCHEMA x; DROP SCHEMA x; SELECT 4')" 4
		must_not sql "a'b" atlas_app atlas_state 'SELECT 1'
		must_not sql "a'b" atlas_app postgres 'SELECT 1'
		must_not sql state atlas_state atlas 'SELECT 1'
		must_not sql wrong atlas_app atlas 'SELECT 1'
		must_not sql "a'b" atlas_app atlas "SELECT set_config('app.tenant_id', 'globex', false)"
		must_not sql "a'b" atlas_app atlas 'CREATE TABLE x ()'
		told="$told, Postgres"
	fi
	result "$told: Atlas's users have what is theirs and nothing else"
}

check_image() {
	local e v=v0.0.0-check args=(--build-arg "VERSION=v0.0.0-check")
	if docker info >/dev/null 2>&1; then
		e="docker"
		docker build "${args[@]}" -t atlas-mcp:check . && docker build "${args[@]}" --target copilot -t atlas-copilot:check .
	else
		have buildah && have podman && have runc || cannot "neither a Docker engine nor buildah, podman and runc are here (apt-get install --no-install-recommends buildah podman crun runc busybox-static)"
		[ "$(id -u)" = 0 ] || cannot "building without an engine needs root"
		# A chroot has no registry: the first stage's base is made here, of the toolchain that runs and busybox.
		[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || cannot "a static busybox is not here (apt-get install busybox-static)"
		local store=(--root "$here/.cache/deploy-tools/images" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-overlay}")
		local b=(buildah "${store[@]}") base
		base=localhost/golang-here:$(go env GOVERSION)
		if ! "${b[@]}" inspect --type image "$base" >/dev/null 2>&1; then
			local c m
			c=$("${b[@]}" from scratch)
			m=$("${b[@]}" mount "$c")
			mkdir -p "$m/bin" "$m/usr/local" "$m/usr/share" "$m/etc/ssl/certs" "$m/tmp" "$m/root"
			cp /bin/busybox "$m/bin/" && for a in sh mkdir cp chmod echo; do ln -s busybox "$m/bin/$a"; done
			cp -R "$(go env GOROOT)" "$m/usr/local/go"
			cp /etc/ssl/certs/ca-certificates.crt "$m/etc/ssl/certs/" && cp -R /usr/share/zoneinfo "$m/usr/share/"
			"${b[@]}" unmount "$c"
			"${b[@]}" config --env PATH=/usr/local/go/bin:/bin --env GOPATH=/go --env HOME=/root "$c"
			"${b[@]}" commit -q "$c" "$base" && "${b[@]}" rm "$c"
		fi
		go mod download && go mod download -modfile=deploy/sbom/go.mod
		args+=(--isolation chroot --network host --layers --build-arg "GO_IMAGE=$base" --build-arg GOPROXY=file:///modules/cache/download --build-arg GOSUMDB=off -v "$(go env GOMODCACHE):/modules:ro")
		"${b[@]}" bud "${args[@]}" --format docker --target atlas -t atlas-mcp:check . && "${b[@]}" bud "${args[@]}" --format docker --target copilot -t atlas-copilot:check .
		e="podman ${store[*]} --runtime runc --cgroup-manager cgroupfs"
	fi
	local user name out
	user=$($e image inspect --format '{{.Config.User}}' atlas-mcp:check)
	same "$user" 10001:10001
	local confined=(--read-only --cap-drop ALL --security-opt no-new-privileges --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024)
	same "$($e run --rm "${confined[@]}" atlas-mcp:check version)" "atlas $v"
	$e run --rm "${confined[@]}" atlas-copilot:check --help | grep -q ATLAS_MCP_TOKEN
	# Without a configuration of its own it serves nothing.
	if out=$($e run --rm "${confined[@]}" atlas-mcp:check 2>&1); then echo "it serves the demo company to a network"; return 1; fi
	grep -q 'demo_data: not in production mode' <<<"$out"
	name=atlas-check-$$
	$e run -d --name "$name" "${confined[@]}" --tmpfs /tmp:size=64m -e ATLAS_MODE=development atlas-mcp:check
	trap "$e rm -f $name >/dev/null 2>&1; rm -rf $work" EXIT
	for _ in $(seq 100); do $e exec "$name" /usr/local/bin/atlas health >/dev/null 2>&1 && break; sleep 0.2; done
	same "$($e exec "$name" /usr/local/bin/atlas health)" ready
	# The health check that the image declares, as the engine runs it.
	if [ "$e" = docker ]; then
		for _ in $(seq 60); do [ "$(docker inspect --format '{{.State.Health.Status}}' "$name")" = healthy ] && break; sleep 0.5; done
		same "$(docker inspect --format '{{.State.Health.Status}}' "$name")" healthy
	else
		$e healthcheck run "$name"
	fi
	$e exec "$name" /usr/local/bin/atlas tools call crm_order --arg order_id=o_9002 | grep -q o_9002
	must_not $e exec "$name" /usr/local/bin/atlas --data-dir /etc/atlas/x tools list # nothing else can be written
	$e logs "$name" >"$work/said" 2>&1
	must grep -q 'serves MCP at' "$work/said"
	$e stop -t 20 "$name" >/dev/null
	same "$($e inspect --format '{{.State.ExitCode}}' "$name")" 0
	result "built and run as $user, read-only, no capabilities: $($e image inspect --format '{{.Size}}' atlas-mcp:check | awk '{printf "%.0f MB", $1/1e6}'), copilot $($e image inspect --format '{{.Size}}' atlas-copilot:check | awk '{printf "%.0f MB", $1/1e6}')"
}

if [ "${1:-}" = --one ]; then
	"check_$2"
	exit
fi
for name in compose lint rules otel sbom stores image; do check "$name"; done

rc=0
if [ -n "${CI:-}" ]; then
	for s in "${skipped[@]}"; do
		case " $required " in *" $s "*) echo "$s is required where CI is set"; rc=1 ;; esac
	done
fi
[ ${#failed[@]} = 0 ] || rc=1
exit $rc
