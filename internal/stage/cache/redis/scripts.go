package redis

import "github.com/redis/rueidis"

// epochOf is the beginning of scripts: it sets g, the tenant's epoch or nil, and o, the tool's. What
// does not look like an epoch counts as none. A tool that was never purged alone has dashes.
const epochOf = `
local e = redis.call('HMGET', KEYS[1], '*', ARGV[1])
local g, o = e[1], e[2]
if not g or #g ~= 26 then g = nil end
if not o or #o ~= 26 then o = '--------------------------' end
`

var (
	// claimScript returns {2, entry, ms} for an answer, {1, epoch, 0} for the right, {0, '', ms} if
	// another has it. KEYS: epochs, answer, right. ARGV: field of the tool, a fresh epoch, token, lease in
	// ms, limit in bytes, token not wanted, ms to keep epochs for.
	//
	// The size is looked at first, so that a huge value that somebody put there does not come over here.
	claimScript = rueidis.NewLuaScript(epochOf + `
if g then
	local size = redis.call('STRLEN', KEYS[2])
	if size >= 78 and size - 78 <= tonumber(ARGV[5]) and redis.call('GETRANGE', KEYS[2], 0, 51) == g .. o
		and redis.call('GETRANGE', KEYS[2], 52, 77) ~= ARGV[6] then
		local left = redis.call('PTTL', KEYS[2])
		if left > 0 then return {2, redis.call('GET', KEYS[2]), left} end
	end
else
	g = ARGV[2]
	redis.call('HSET', KEYS[1], '*', g)
end
local owner = redis.call('HGET', KEYS[3], 't')
if owner and owner ~= ARGV[3] then
	local left = redis.call('PTTL', KEYS[3])
	if left > 0 then
		redis.call('HSET', KEYS[3], 'w', '1')
		return {0, '', left}
	end
	redis.call('DEL', KEYS[3])
end
redis.call('HSET', KEYS[3], 't', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return {1, g .. o, 0}
`)

	// renewScript returns 1 if the token has the right. KEYS: right. ARGV: token, lease in ms.
	renewScript = rueidis.NewLuaScript(`
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`)

	// fillScript returns 1 if the answer was kept, 2 if it was purged, 0 if the right was lost. KEYS: epochs,
	// answer, right. ARGV: field of the tool, token, epoch, ms to keep the answer for, answer, channel,
	// message, ms to keep epochs for.
	fillScript = rueidis.NewLuaScript(epochOf + `
local l = redis.call('HMGET', KEYS[3], 't', 'w')
if l[1] ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[3])
local out = 2
if g and g .. o == ARGV[3] then
	redis.call('SET', KEYS[2], ARGV[3] .. ARGV[2] .. ARGV[5], 'PX', ARGV[4])
	redis.call('PEXPIRE', KEYS[1], ARGV[8])
	out = 1
end
if l[2] then redis.call('PUBLISH', ARGV[6], ARGV[7]) end
return out
`)

	// releaseScript: KEYS: right. ARGV: token, channel, message.
	releaseScript = rueidis.NewLuaScript(`
local l = redis.call('HMGET', KEYS[1], 't', 'w')
if l[1] ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if l[2] then redis.call('PUBLISH', ARGV[2], ARGV[3]) end
return 1
`)

	// purgeScript: KEYS: epochs. ARGV: field, a fresh epoch, ms to keep epochs for, channel, message, limit of
	// fields. A tenant's fresh epoch makes those of its tools superfluous.
	purgeScript = rueidis.NewLuaScript(`
local what = ARGV[1]
if what == '*' or redis.call('HLEN', KEYS[1]) > tonumber(ARGV[6]) then
	redis.call('DEL', KEYS[1])
	what = '*'
end
redis.call('HSET', KEYS[1], what, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
`)
)
