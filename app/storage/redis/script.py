"""The script that decides in Redis, and the operations that it takes.

    ScriptBatch: holds, corrections, ends, leases of one turn -> EVALSHA -> ScriptReply

One call of the script takes all operations of a turn, in their order, by the clock of Redis. Its keys:

    {PREFIX}:epoch              "ID FOUNDED EMPTIED": who finds another ID than before knows that Redis was emptied
    {PREFIX}:processes          sorted set: the ids of living processes, by the end of their lease
    {PREFIX}:minute:UNIT:SCOPE  hash: SECOND and hSECOND are what was taken in a second and what open calls hold of it;
                                ``at`` is the second up to which the old ones were removed, ``sum`` and ``held`` are the
                                sums, ``last`` is the latest second in which something was taken
    {PREFIX}:open:UNIT:SCOPE    sorted set: what is open, by the end of its lease

The braces keep all keys in one slot of a Redis Cluster. If Redis was emptied, every minute is full until all seconds
before have left it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

import msgspec

from ..holds import OPEN, Balance, Charge

MOST = 2**53  # the largest integer of a Lua number
NEVER = -1

HOLD, LOOK, ADD, END, RENEW, LEASE, LEAVE, PUBLISH, FORGET = range(1, 10)
KINDS = {"requests": 1, "tokens": 2}  # 0: what is open

SCRIPT = b"""
local clock = redis.call('TIME')
local second = tonumber(clock[1])
local ms = second * 1000 + math.floor(tonumber(clock[2]) / 1000)
local known, fresh, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])

local id, founded, emptied = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+) (%d)$')
if fresh ~= '' then
  if not id then id, founded, emptied = fresh, second, '0' end
  if known ~= '' and known ~= id then emptied = '1' end
  redis.call('SET', KEYS[1], id .. ' ' .. founded .. ' ' .. emptied)
elseif id ~= known then
  return cmsgpack.pack({0, ms, ''})
end
local full = 0
if emptied == '1' and second < founded + 61 then full = founded + 61 end

local minutes, opens, answers = {}, {}, {}

local function add(m, place, amount, held)
  if place > second then place = second end
  if place <= m.at - 61 or (amount < 0 and m.new) then return end
  m.sum, m.held = m.sum + amount, m.held + held
  m.amounts[place] = (m.amounts[place] or 0) + amount
  m.helds[place] = (m.helds[place] or 0) + held
  if amount > 0 and place > m.last then m.last = place end
  m.changed, m.sorted = true, nil
end

local function minute(k)
  local m = minutes[k]
  if m then return m end
  local key = KEYS[k]
  local found = redis.call('HMGET', key, 'at', 'sum', 'held', 'last')
  m = {key = key, new = not found[1], at = tonumber(found[1]) or second, sum = tonumber(found[2]) or 0,
    held = tonumber(found[3]) or 0, last = tonumber(found[4]) or 0, amounts = {}, helds = {}}
  minutes[k] = m
  local at, sum, held = m.at, m.sum, m.held
  if second - at > 60 or at - second > 60 then
    redis.call('DEL', key)
    m.at, m.sum, m.held, m.last = second, 0, 0, 0
    if at > second then add(m, second, sum, held) end -- the clock was set back
  elseif second > at then
    local gone = {}
    for place = at - 60, second - 61 do
      gone[#gone + 1] = place
      gone[#gone + 1] = 'h' .. place
    end
    local amounts = redis.call('HMGET', key, unpack(gone))
    for i = 1, #gone, 2 do
      m.sum = m.sum - (tonumber(amounts[i]) or 0)
      m.held = m.held - (tonumber(amounts[i + 1]) or 0)
    end
    redis.call('HDEL', key, unpack(gone))
    m.at, m.changed = second, true
  end
  return m
end

local function save(m)
  if not m.changed then return end
  for place, amount in pairs(m.amounts) do redis.call('HINCRBY', m.key, place, amount) end
  for place, held in pairs(m.helds) do
    if held ~= 0 then redis.call('HINCRBY', m.key, 'h' .. place, held) end
  end
  redis.call('HSET', m.key, 'at', m.at, 'sum', m.sum, 'held', m.held, 'last', m.last)
  redis.call('EXPIRE', m.key, 125)
  m.amounts, m.helds, m.changed, m.new = {}, {}, false, false
end

local function sorted(m)
  if m.sorted then return m.sorted end
  save(m)
  local found, list = redis.call('HGETALL', m.key), {}
  for i = 1, #found, 2 do
    local place = tonumber(found[i])
    if place then list[#list + 1] = {place, tonumber(found[i + 1])} end
  end
  table.sort(list, function(one, other) return one[1] < other[1] end)
  m.sorted = list
  return list
end

local function balance(m, limit, amount)
  if full > 0 then return math.max(m.sum, limit), amount <= limit and full or -1 end
  local over = m.sum + amount - limit
  if over <= 0 then return m.sum, math.max(m.last + 61, m.at) end
  if amount <= limit then
    for _, each in ipairs(sorted(m)) do
      over = over - each[2]
      if over <= 0 then return m.sum, each[1] + 61 end
    end
  end
  return m.sum, -1
end

local function open(k)
  local o = opens[k]
  if not o then
    redis.call('ZREMRANGEBYSCORE', KEYS[k], '-inf', ms)
    o = {count = redis.call('ZCARD', KEYS[k])}
    opens[k] = o
  end
  return o
end

local function enter(k, member)
  local o = open(k)
  o.count = o.count + redis.call('ZADD', KEYS[k], ms + lease, member)
  o.changed = true
end

local function fits(member, k, kind, limit, amount)
  if amount == 0 then return true end
  if kind == 0 then
    local count = open(k).count
    if count + amount <= limit or redis.call('ZSCORE', KEYS[k], member) then return true end
    return false, count > 0 and amount <= limit
  end
  local m = minute(k)
  if full == 0 and m.sum + amount <= limit then return true end
  return false, full == 0 and m.held > 0 and math.max(0, m.sum - m.held) + amount <= limit
end

local function hold(op)
  local member, refused, waits = op[2], 0, 1
  for i = 3, #op, 4 do
    local right, may = fits(member, op[i], op[i + 1], op[i + 2], op[i + 3])
    if not right then
      if refused == 0 then refused = (i + 1) / 4 end
      if not may then waits = 0 end
    end
  end
  local taken = op[1] == 1 and refused == 0
  local answer = {refused, refused > 0 and waits or 0, second}
  for i = 3, #op, 4 do
    local k, kind, limit, amount = op[i], op[i + 1], op[i + 2], op[i + 3]
    local n = #answer
    if kind == 0 then
      if taken and amount > 0 then enter(k, member) end
      answer[n + 1], answer[n + 2] = open(k).count, -1
    else
      local m = minute(k)
      if taken and amount > 0 then add(m, second, amount, kind == 2 and amount or 0) end
      answer[n + 1], answer[n + 2] = balance(m, limit, taken and 0 or amount)
    end
  end
  answers[#answers + 1] = answer
end

local function run(op)
  local verb = op[1]
  if verb <= 2 then
    hold(op)
  elseif verb == 3 then
    add(minute(op[2]), op[3], op[4], op[5])
  elseif verb == 4 then
    for i = 3, #op do
      if redis.call('ZREM', KEYS[op[2]], op[i]) == 1 and opens[op[2]] then
        opens[op[2]].count = opens[op[2]].count - 1
      end
    end
  elseif verb == 5 then
    for i = 3, #op do enter(op[2], op[i]) end
  elseif verb == 6 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ms)
    redis.call('ZADD', KEYS[2], ms + lease, op[2])
    local rank, alive = 0, redis.call('ZRANGE', KEYS[2], 0, -1)
    for _, each in ipairs(alive) do
      if each < op[2] then rank = rank + 1 end
    end
    answers[#answers + 1] = {rank, #alive}
  elseif verb == 7 then
    redis.call('ZREM', KEYS[2], op[2])
  elseif verb == 8 then
    redis.pcall('PUBLISH', op[2], '')
  end
end

local ops = cmsgpack.unpack(ARGV[4])
for _, op in ipairs(ops) do run(op) end
for _, m in pairs(minutes) do save(m) end
for k, o in pairs(opens) do
  if o.changed then redis.call('PEXPIRE', KEYS[k], lease + 60000) end
end
if #ops > 0 and ops[#ops][1] == 9 then redis.call('DEL', unpack(KEYS)) end
return cmsgpack.pack({1, ms, id, answers})
"""
SHA = sha1(SCRIPT).hexdigest().encode()  # noqa: S324 - the name that Redis gives to a script


class ScriptReply(NamedTuple):
    """``known``: the batch's epoch is that of Redis; if not, nothing was done. ``ms``: the clock of Redis, Unix
    milliseconds. ``answers`` are those of holds, looks and leases, in their order."""

    known: bool
    ms: int
    epoch: str = ""
    answers: Sequence[Any] = ()


class ScriptBatch:
    """The operations of one call of the script. A charge is to a sliding minute, or to what is open at once. ``part``
    goes between the prefix and the names of keys."""

    def __init__(self, prefix: str, part: str = "") -> None:
        start = f"{{{prefix}}}:{part}"
        self.keys = [f"{start}epoch".encode(), f"{start}processes".encode()]
        self.operations: list[list[Any]] = []
        self._start = start
        self._places: dict[tuple[str, str], int] = {}

    def hold(self, member: str, charges: Iterable[Charge], *, look: bool = False) -> None:
        """All charges or none; only looks at them with ``look``. The member is what is open."""
        operation: list[Any] = [LOOK if look else HOLD, member]
        for charge in charges:
            unit = charge[1]
            operation += (
                self._place(charge[0], unit),
                0 if unit in OPEN else KINDS[unit],
                min(charge[4], MOST),
                min(charge[5], MOST),
            )
        self.operations.append(operation)

    def add(self, scope: str, unit: str, second: int, amounts: tuple[int, int]) -> None:
        """To what was taken in a second of a minute, and to what open calls hold of it."""
        self.operations.append([ADD, self._place(scope, unit), second, *amounts])

    def end(self, scope: str, unit: str, members: Iterable[str]) -> None:
        """These are open no more."""
        self.operations.append([END, self._place(scope, unit), *members])

    def renew(self, scope: str, unit: str, members: Iterable[str]) -> None:
        """These are open still."""
        self.operations.append([RENEW, self._place(scope, unit), *members])

    def lease(self, process: str) -> None:
        """The process lives; the answer has the number of living ones whose ids come before its own, and of all."""
        self.operations.append([LEASE, process])

    def leave(self, process: str) -> None:
        self.operations.append([LEAVE, process])

    def publish(self, channel: str) -> None:
        self.operations.append([PUBLISH, channel])

    def forget(self) -> None:
        """Removes all keys of this batch; the last operation, for a trial under a prefix of its own."""
        self.operations.append([FORGET])

    def command(self, known: str, fresh: str, lease_seconds: float) -> tuple[bytes, ...]:
        """The arguments of EVALSHA or EVAL behind the script. ``fresh`` is the id of a new epoch if there is none; ""
        leaves it to others."""
        arguments = (known.encode(), fresh.encode(), b"%d" % (lease_seconds * 1000), _packed(self.operations))
        return b"%d" % len(self.keys), *self.keys, *arguments

    def _place(self, scope: str, unit: str) -> int:
        place = self._places.get((scope, unit))
        if place is None:
            kind = "open" if unit in OPEN else "minute"
            self.keys.append(f"{self._start}{kind}:{unit}:{scope}".encode())
            place = self._places[scope, unit] = len(self.keys)
        return place


def reply_of(packed: bytes) -> ScriptReply:
    """Raises msgspec.DecodeError for what the script did not write."""
    known, *rest = msgspec.msgpack.decode(packed)
    return ScriptReply(known == 1, *rest)


def balances_of(charges: Sequence[Charge], answer: Sequence[int], ahead: int) -> tuple[Balance, ...]:
    """The balances of a hold. ``ahead``: the seconds by which this machine's clock is ahead of that of Redis."""
    found = []
    for place, charge in enumerate(charges):
        used, frees_at = answer[3 + 2 * place], answer[4 + 2 * place]
        if charge[1] in OPEN:
            found.append(Balance(0, used, None))
        else:
            found.append(Balance(used, 0, None if frees_at == NEVER else frees_at + ahead))
    return tuple(found)


_packed = msgspec.msgpack.Encoder().encode
