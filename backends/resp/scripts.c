/* scripts.c - see scripts.h. */
#include "backends/resp/scripts.h"

/* Tokens: SEMANTICS 4. The fence key holds "epoch:seq" and never falls, so tokens grow strictly
 * while it lives; a number leaves Lua through %.0f, since tostring rounds beyond 2^46. TYPE reads
 * the key, so that client tracking remembers it whatever is kept there. */
const struct belay__script belay__scripts[BELAY__SCRIPTS] = {
    [BELAY__SCRIPT_ACQUIRE] = {
        .source =
            "local kind = redis.call('TYPE', KEYS[1]).ok\n"
            "if kind ~= 'none' then return {0, redis.call('PTTL', KEYS[1]), kind} end\n"
            "local seq, epoch = tonumber(ARGV[3]), tonumber(ARGV[4])\n"
            "local last_epoch, last = tonumber(ARGV[5]), tonumber(ARGV[6])\n"
            "local fence = redis.call('GET', KEYS[2])\n"
            "if fence then\n"
            "  local e, s = string.match(fence, '^(%d+):(%d+)$')\n"
            "  if not e then return redis.error_reply('BELAYFENCE the fence key holds something else') end\n"
            "  e, s = tonumber(e), tonumber(s)\n"
            "  if e > last_epoch or (e == last_epoch and s > last) then last_epoch, last = e, s end\n"
            "end\n"
            "if epoch < last_epoch then epoch = last_epoch end\n"
            "if epoch == last_epoch and seq <= last then seq = last + 1 end\n"
            "if seq > 1125899906842623 then return redis.error_reply('BELAYFENCE no token is left') end\n"
            "redis.call('SET', KEYS[2], string.format('%.0f:%.0f', epoch, seq))\n"
            "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
            "return {1, seq, epoch}\n",
        .sha = "f053b13dbdcb6db84d133c4cd7dc72a94877a03d",
        .keys = "2",
    },
    [BELAY__SCRIPT_TAKE] = {
        .source =
            "local kind = redis.call('TYPE', KEYS[1]).ok\n"
            "if kind ~= 'none' then return {0, redis.call('PTTL', KEYS[1]), kind} end\n"
            "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
            "return {1, 0, 0}\n",
        .sha = "e280c045bb06fb0eb8f94fb4b577c67cf0036686",
        .keys = "1",
    },
    [BELAY__SCRIPT_EXTEND] = {
        .source =
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
            "local left = redis.call('PTTL', KEYS[1])\n"
            "if left >= 0 and left < tonumber(ARGV[2]) then\n"
            "  redis.call('PEXPIRE', KEYS[1], ARGV[2])\n"
            "end\n"
            "return 1\n",
        .sha = "a629e97345d44d23b431111eb37535ac5ece8442",
        .keys = "1",
    },
    [BELAY__SCRIPT_RAISE] = {
        .source =
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
            "local epoch, seq = tonumber(ARGV[3]), tonumber(ARGV[4])\n"
            "local fence = redis.pcall('GET', KEYS[2])\n"
            "if type(fence) == 'table' then return redis.error_reply('BELAYFENCE ' .. fence.err) end\n"
            "local e, s = -1, -1\n"
            "if fence then\n"
            "  e, s = string.match(fence, '^(%d+):(%d+)$')\n"
            "  if not e then return redis.error_reply('BELAYFENCE the fence key holds something else') end\n"
            "  e, s = tonumber(e), tonumber(s)\n"
            "end\n"
            "if e < epoch or (e == epoch and s < seq) then\n"
            "  redis.call('SET', KEYS[2], string.format('%.0f:%.0f', epoch, seq))\n"
            "end\n"
            "local left = redis.call('PTTL', KEYS[1])\n"
            "if left >= 0 and left < tonumber(ARGV[2]) then\n"
            "  redis.call('PEXPIRE', KEYS[1], ARGV[2])\n"
            "end\n"
            "return 1\n",
        .sha = "299b7f7eb53a36cda4f31733b0547ecf3cd50a56",
        .keys = "2",
    },
    [BELAY__SCRIPT_RELEASE] = {
        .source =
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
            "return redis.call('DEL', KEYS[1])\n",
        .sha = "3c9c9e0fad36a4c131785264072fb16c2f7347b2",
        .keys = "1",
    },
};
