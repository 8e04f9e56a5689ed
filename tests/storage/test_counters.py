"""Counters over a real file, transaction by transaction, under a clock of the test."""

from __future__ import annotations

import random
from collections import deque
from contextlib import closing

import pytest

from app.storage.counters import balances
from app.storage.errors import StoreError
from app.storage.holds import MINUTE, Balance, Decision
from app.storage.location import Location
from app.storage.opening import connect
from app.storage.rollups import step
from app.storage.verify import verify

from ..ledger import read
from .charging import DAY, START, TOTAL, Books, Clock, charge, held, row

TOKENS = charge("tokens", 600, 1000, DAY)


@pytest.fixture
def books(location: Location) -> Books:
    return Books(location)


def test_all_charges_are_held_or_none(books: Books) -> None:
    usd = charge("usd", 5, 9, TOTAL, "team:t")
    assert books.hold(TOKENS, usd) == Decision(None, False, (Balance(0, 600, DAY[1]), Balance(0, 5, None)))
    refused = books.hold(charge(), charge("tokens", 1, 1000, DAY), usd)
    assert refused == Decision(2, True, (Balance(0, 0, None), Balance(0, 600, DAY[1]), Balance(0, 5, None)))
    assert (books.counter(), books.counter("tokens"), books.counter("usd", "team:t")) == ((0, 0), (0, 600), (0, 5))
    assert len(read(books.path, "SELECT * FROM holds")) == 1


def test_a_refusal_waits_only_if_open_calls_can_make_room(books: Books) -> None:
    books.write(row(total_tokens=300))
    books.hold(TOKENS)
    assert books.hold(charge("tokens", 700, 1000, DAY)).waits
    assert not books.hold(charge("tokens", 701, 1000, DAY)).waits  # not even if the open call used nothing
    assert not books.hold(charge("tokens", 700, 1000, DAY), charge("usd", 10, 9)).waits


def test_what_is_held_becomes_what_the_rows_say(books: Books) -> None:
    concurrent = charge("calls", 1, 2)
    books.hold(TOKENS, concurrent, charge(), request_id="a")
    assert books.counter("calls") == (0, 1)
    books.settle("a", row("a", total_tokens=70), row("a", upstream="other", total_tokens=5, requests=0))
    assert (books.counter("tokens"), books.counter("calls"), books.counter()) == ((75, 0), (0, 0), (1, 0))
    assert read(books.path, "SELECT * FROM holds") == []
    assert verify(books.path) == []


def test_a_settlement_counts_once(books: Books) -> None:
    books.hold(TOKENS, charge("tokens", 600, 1000, MINUTE), request_id="a")
    for _ in range(3):
        books.settle("a", row("a", total_tokens=70))
    books.settle("a", row("a", total_tokens=70), row("a", upstream="other", total_tokens=5, requests=0))
    assert books.counter("tokens") == (75, 0)
    assert len(read(books.path, "SELECT * FROM calls")) == 2
    assert verify(books.path) == []


def test_a_release_gives_back_all_but_the_request_of_the_minute(books: Books) -> None:
    minute = charge("requests", 1, 10, MINUTE)
    books.hold(TOKENS, charge("tokens", 600, 1000, MINUTE), minute, charge(), request_id="a")
    with books.turn() as counters:
        assert counters.release("a")
        assert not counters.release("a")
    assert (books.counter("tokens"), books.counter()) == ((0, 0), (0, 0))
    assert (books.minute(), books.minute("requests")) == ({}, {0: 1})
    assert verify(books.path) == []


def test_an_extension_that_does_not_fit_leaves_the_hold_as_it_was(books: Books) -> None:
    books.hold(TOKENS, charge(), request_id="a")
    before = read(books.path, "SELECT * FROM holds")
    assert books.extend("a", charge("tokens", 401, 1000, DAY), charge("usd", 1, 5)).refused == 0
    assert read(books.path, "SELECT * FROM holds") == before
    assert books.counter("tokens") == (0, 600)
    assert books.extend("a", charge("tokens", 400, 1000, DAY)).refused is None
    assert books.counter("tokens") == (0, 1000)
    books.settle("a", row("a", total_tokens=10))
    assert (books.counter("tokens"), books.counter()) == ((10, 0), (1, 0))


def test_two_charges_of_one_counter_take_the_larger_amount_once(books: Books) -> None:
    decision = books.hold(charge("requests", 1, 5, DAY), charge("requests", 1, 100, DAY), request_id="a")
    assert decision.balances == (Balance(0, 1, DAY[1]),) * 2
    books.settle("a", row("a"))
    assert books.counter() == (1, 0)


# ---------------------------------------------------------------- rows


def test_a_counter_starts_from_the_rows(books: Books) -> None:
    day, *_ = DAY
    books.write(
        row(total_tokens=1, cost=10),
        row(total_tokens=2, cost=None, team="t"),
        row(total_tokens=4, model_id="claude-x", model="alias"),
        row(total_tokens=8, time=day * 1000 - 1),
        row(total_tokens=16, time=DAY[1] * 1000),
        row(total_tokens=32, endpoint="rerank"),
        row(total_tokens=64, key_id="other"),
        row(total_tokens=128, key_id=None, requests=0),
    )
    jina = '{"endpoints":["embeddings"],"models":["jina-*"]}'
    charges = [
        charge("tokens", 0, 1, DAY),
        charge("usd", 0, 1, DAY),
        charge("requests", 0, 1, DAY),
        charge("tokens", 0, 1, TOTAL),
        charge("tokens", 0, 1, DAY, chosen=jina),
        charge("tokens", 0, 1, DAY, chosen='{"models":["claude-x"]}'),
        charge("tokens", 0, 1, DAY, "team:t"),
        charge("tokens", 0, 1, DAY, "organization"),
        charge("requests", 0, 1, DAY, "organization"),
    ]
    spent = [1 + 2 + 4 + 32, 10, 4, 1 + 2 + 4 + 8 + 16 + 32, 1 + 2, 4, 2, 1 + 2 + 4 + 32 + 64 + 128, 5]
    assert [balance.spent for balance in balances(books.path, charges, books.clock)] == spent
    assert read(books.path, "SELECT * FROM counters") == []
    assert [balance.spent for balance in books.hold(*charges).balances] == spent
    assert [balance.spent for balance in balances(books.path, charges, books.clock)] == spent
    assert verify(books.path) == []


def test_a_counter_starts_from_roll_ups_where_rows_were_deleted(books: Books) -> None:
    books.write(*(row(total_tokens=tokens) for tokens in (1, 2, 4)))
    with closing(connect(books.path, "rw", 5.0)) as other:
        assert step(other, 2) == 2
        other.execute("DELETE FROM calls WHERE id = 1")
    assert [balance.spent for balance in books.hold(charge("tokens"), charge()).balances] == [7, 3]
    assert verify(books.path) == []


def test_a_row_without_hold_adds_to_the_counters_that_there_are(books: Books) -> None:
    charges = (
        charge("tokens", 0, 9, DAY),
        charge("tokens", 0, 9, TOTAL, "team:t"),
        charge("tokens", 0, 9, TOTAL, "organization", '{"endpoints":["rerank"]}'),
    )
    books.hold(*charges)
    books.write(row(total_tokens=3, team="t"), row(total_tokens=4, time=(DAY[1] + 1) * 1000), row(endpoint="rerank"))
    assert [balance.spent for balance in balances(books.path, charges, books.clock)] == [3 + 1000, 3, 1000]
    assert verify(books.path) == []


# ---------------------------------------------------------------- the sliding minute


@pytest.mark.parametrize("seed", range(4))
def test_no_60_seconds_have_more_than_the_limit(seed: int, location: Location) -> None:
    """Two processes admit calls at random moments; also exactly at the moment that a refusal gave, not before."""
    chance = random.Random(seed)
    clock = Clock()
    clock.now += chance.random()
    both = [Books(location, name, clock) for name in "ab"]
    admitted: deque[tuple[float, int]] = deque()
    frees, refused = 0, 0
    for _ in range(150):
        if frees and chance.random() < 0.5:
            clock.now = max(clock.now, frees - chance.choice((1e-3, 0.0)))
        else:
            clock.now += chance.expovariate(0.4)
        amount = chance.randint(1, 40)
        minute = charge("tokens", amount, 100, MINUTE)
        if chance.random() < 0.3:
            amount, minute = 1, minute._replace(amount=1)
        decision = chance.choice(both).hold(minute)
        if decision.refused is None:
            admitted.append((clock.now, amount))
            frees = 0
        else:
            refused += 1
            frees = decision.balances[0].frees_at or 0
            assert clock.now < frees <= clock.now + 61
        while admitted[0][0] < clock.now - 60:
            admitted.popleft()
        assert sum(each for _, each in admitted) <= 100
    assert refused > 10


def test_the_moment_at_which_a_minute_frees_is_exact(books: Books) -> None:
    for second, amount in ((0, 50), (10, 30), (20, 20)):
        books.clock.now = START + second
        books.hold(charge("tokens", amount, 100, MINUTE))
    ask = charge("tokens", 60, 100, MINUTE)
    refused = books.hold(ask)
    assert refused.balances == (Balance(100, 0, START + 71),)
    books.clock.now = START + 70.99
    assert books.hold(ask).refused == 0
    books.clock.now = START + 71
    assert books.hold(ask).refused is None
    assert books.hold(charge("tokens", 101, 100, MINUTE)) == Decision(0, False, (Balance(80, 0, None),))


def test_tokens_are_corrected_in_the_second_of_admission(books: Books) -> None:
    minute = charge("tokens", 60, 100, MINUTE)
    books.hold(minute, request_id="a")
    books.clock.now += 5
    assert books.hold(minute).waits
    books.extend("a", charge("tokens", 40, 100, MINUTE))
    books.clock.now += 5
    books.settle("a", row("a", total_tokens=45))
    assert books.minute() == {0: 5, 5: 40}  # what remains is that which leaves last
    books.hold(charge("tokens", 1, 100, MINUTE), request_id="b")
    books.settle("b", row("b", total_tokens=500))
    assert books.minute() == {0: 5, 5: 40, 10: 500}
    assert verify(books.path) == []


def test_a_new_limit_of_a_minute_starts_from_the_last_rows(books: Books) -> None:
    for second, tokens in ((-61, 1), (-60, 2), (-5, 4)):
        books.write(row(time=(START + second) * 1000, total_tokens=tokens))
    assert [balance.spent for balance in books.hold(charge("tokens", 1, 9, MINUTE)).balances] == [7]
    books.write(row(time=(START - 1) * 1000, total_tokens=8))
    assert books.minute() == {-60: 2, -5: 4, -1: 8, 0: 1}
    assert [balance.spent for balance in books.hold(charge("requests", 1, 9, MINUTE)).balances] == [4]


# ---------------------------------------------------------------- several processes


def test_processes_see_each_others_holds(location: Location) -> None:
    ours, theirs = Books(location), Books(location, "theirs")
    for number in range(4):
        assert ours.hold(charge(limit=8), request_id=f"a{number}").refused is None
        assert theirs.hold(charge(limit=8), request_id=f"b{number}").refused is None
    assert (ours.hold(charge(limit=8)).refused, theirs.hold(charge(limit=8)).refused) == (0, 0)
    ours.settle("a0")
    assert theirs.hold(charge(limit=8)).refused is None
    assert verify(ours.path) == []


def test_a_failed_transaction_leaves_nothing_in_memory(books: Books) -> None:
    minute = charge("tokens", 600, 1000, MINUTE)
    books.hold(TOKENS, minute, request_id="a")
    books.connection.begin()
    books.counters.begin(books.connection)
    books.counters.hold(held(charge("tokens", 400, 1000, DAY), request_id="b"))
    books.counters.settle("a", [])
    books.counters.save()
    books.connection.rollback()
    books.counters.undo()
    assert books.hold(charge("tokens", 401, 1000, DAY)).refused == 0
    assert books.counters.open == 1
    with books.turn() as counters:
        assert not counters.release("b")
    books.settle("a", row("a", total_tokens=7))
    assert (books.counter("tokens"), books.minute()) == ((7, 0), {0: 7})
    assert verify(books.path) == []


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_no_budget_is_passed(seed: int, location: Location) -> None:
    """Three processes hold, extend, settle and release at random; one is found dead at times, and settles all the
    same. Counters and rows always agree."""
    chance, clock = random.Random(seed), Clock()
    processes = [Books(location, name, clock) for name in "abc"]
    limits = {("tokens", DAY, "key:k"): 900, ("requests", TOTAL, "organization"): 40, ("calls", TOTAL, "key:k"): 6}
    begun: dict[str, tuple[Books, int]] = {}
    for number in range(120):
        books = chance.choice(processes)
        amount, name = chance.randint(1, 200), f"{number}"
        tokens, *others = (charge(unit, 1, limit, window, of) for (unit, window, of), limit in limits.items())
        match chance.randrange(5):
            case 0 | 1:
                ask = tokens._replace(amount=amount), charge("tokens", amount, 10**6, MINUTE), *others
                if books.hold(*ask, request_id=name, total_tokens=amount).refused is None:
                    begun[name] = books, amount
            case 2 if begun:
                name, (books, held) = chance.choice(list(begun.items()))
                if books.extend(name, tokens._replace(amount=amount), total_tokens=amount).refused is None:
                    begun[name] = books, held + amount
            case 3 if begun:
                name, (books, held) = begun.popitem()
                if chance.random() < 0.3:
                    with books.turn() as counters:
                        counters.release(name)
                for _ in range(chance.randint(0, 2)):
                    books.settle(name, row(name, total_tokens=chance.randint(0, held // 8)))
            case 4:
                clock.now += chance.choice((1, 31))
                with books.turn() as counters:
                    counters.renew()
                    counters.sweep()
        step(books.connection, chance.randint(1, 9))
        for unit, _, scope, limit in ((*key, limit) for key, limit in limits.items()):
            found = read(
                books.path,
                f"SELECT spent + held FROM counters WHERE unit = '{unit}' AND scope = '{scope}' AND until > 0",
            )
            assert all(used <= limit for (used,) in found)
        assert verify(books.path) == []


def test_the_holds_of_a_dead_process_become_rows(location: Location) -> None:
    clock = Clock()
    ours, dead = Books(location, clock=clock), Books(location, "dead", clock)
    concurrent = charge("calls", 1, 1)
    dead.hold(TOKENS, charge("tokens", 600, 1000, MINUTE), charge(), concurrent, request_id="a", total_tokens=600)
    dead.extend("a", charge("tokens", 100, 1000, DAY), upstream="other", total_tokens=50)
    dead.extend("a", charge("tokens", 100, 1000, DAY), upstream="other", total_tokens=50, cost=9)
    clock.now += 30
    assert ours.sweep() == 0  # its lease has not ended
    clock.now += 0.01
    assert ours.sweep() == 1
    rows = read(
        ours.path, "SELECT upstream, status, error, total_tokens, estimated, seconds, requests, cost FROM calls"
    )
    lost = (500, "process_lost")
    assert rows == [("jina", *lost, 600, 1, 30.01, 1, None), ("other", *lost, 100, 1, 30.01, 0, 9)]
    assert (ours.counter("tokens"), ours.counter(), ours.counter("calls")) == ((700, 0), (1, 0), (0, 0))
    assert read(ours.path, "SELECT * FROM processes") == []
    assert verify(ours.path) == []
    assert ours.sweep() == 0


def test_a_call_that_was_lost_before_it_reached_an_upstream_has_one_row(books: Books) -> None:
    books.hold(charge(), request_id="a", upstream="", total_tokens=0)
    books.hold(charge(), request_id="b", upstream="", total_tokens=0)
    books.extend("b", TOKENS)
    books.clock.now += 31
    Books(books.path, "other", books.clock).sweep()
    rows = read(books.path, "SELECT request_id, upstream, requests, total_tokens FROM calls ORDER BY id")
    assert rows == [("a", "", 1, 0), ("b", "jina", 1, 1000)]
    assert verify(books.path) == []


def test_a_late_settlement_replaces_the_rows_of_a_lost_call(location: Location) -> None:
    """For example, of a laptop that slept: the process lives, and settles what others gave up."""
    clock = Clock()
    ours, asleep = Books(location, clock=clock), Books(location, "asleep", clock)
    charges = TOKENS, charge("tokens", 600, 1000, MINUTE), charge()
    for name in "abc":
        asleep.hold(*(each._replace(limit=9999) for each in charges), request_id=name, total_tokens=600)
    clock.now += 31
    assert ours.sweep() == 3
    with closing(connect(ours.path, "rw", 5.0)) as other:
        assert step(other) == 3
    asleep.settle("a", row("a", total_tokens=7))
    ours.settle("b", row("b", total_tokens=8))  # read from the other's spill file, for instance
    asleep.settle("a", row("a", total_tokens=7))
    assert read(ours.path, "SELECT request_id, total_tokens FROM calls ORDER BY id") == [("c", 600), ("a", 7), ("b", 8)]
    assert (ours.counter("tokens"), ours.counter(), ours.minute()) == ((615, 0), (3, 0), {0: 615})
    assert read(ours.path, "SELECT sum(total_tokens) FROM rollups") == [(600,)]
    assert verify(ours.path) == []
    clock.now += 86_401
    ours.sweep()
    assert read(ours.path, "SELECT * FROM holds") == []
    assert verify(ours.path) == []


def test_a_late_release_takes_the_rows_of_a_lost_call_back(location: Location) -> None:
    clock = Clock()
    ours, asleep = Books(location, clock=clock), Books(location, "asleep", clock)
    asleep.hold(TOKENS, charge(), request_id="a", total_tokens=600)
    clock.now += 31
    ours.sweep()
    assert ours.counter() == (1, 0)
    with asleep.turn() as counters:
        assert counters.release("a")
    assert read(ours.path, "SELECT * FROM calls") == read(ours.path, "SELECT * FROM holds") == []
    assert (ours.counter("tokens"), ours.counter()) == ((0, 0), (0, 0))
    assert verify(ours.path) == []


def test_a_process_that_was_found_dead_returns(location: Location) -> None:
    clock = Clock()
    ours, asleep = Books(location, clock=clock), Books(location, "asleep", clock)
    asleep.hold(TOKENS, request_id="a", total_tokens=600)
    clock.now += 31
    ours.sweep()
    assert asleep.hold(charge("tokens", 401, 1000, DAY)).refused == 0
    asleep.hold(charge("tokens", 300, 1000, DAY), request_id="b", total_tokens=300)
    assert read(ours.path, "SELECT id FROM processes") == [("asleep",)]
    ours.sweep()
    asleep.settle("a", row("a", total_tokens=7))
    asleep.settle("b", row("b", total_tokens=7))
    assert asleep.counter("tokens") == (14, 0)
    assert verify(ours.path) == []


def test_a_process_that_slept_gives_the_others_time_to_renew(books: Books) -> None:
    books.hold(TOKENS, request_id="a")
    assert books.counters.may_sweep()
    assert not books.counters.renewal_due()
    books.clock.now += 10.1
    assert books.counters.renewal_due()
    books.clock.now += 60
    assert not books.counters.may_sweep()
    with books.turn() as counters:
        counters.renew()
    assert not books.counters.may_sweep()
    books.clock.now += 29.9
    with books.turn() as counters:
        counters.renew()
    books.clock.now += 29
    assert books.counters.may_sweep()


def test_what_no_longer_counts_is_deleted(books: Books) -> None:
    books.hold(charge("tokens", 1, 9, DAY), charge("tokens", 1, 9, MINUTE), charge(), request_id="a")
    books.settle("a")
    books.clock.now = DAY[1] + 2 * 86_400 + 1
    assert books.counters.untidy(books.connection)
    books.sweep()
    assert not books.counters.untidy(books.connection)
    assert sorted(read(books.path, "SELECT unit, until FROM counters")) == [("requests", TOTAL[1]), ("tokens", 0)]
    assert read(books.path, "SELECT * FROM seconds") == []


# ---------------------------------------------------------------- verify


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE counters SET spent = spent + 1 WHERE unit = 'tokens'", "the counter says 8 spent, the rows say 7"),
        ("UPDATE counters SET held = 5 WHERE unit = 'requests'", "the counter holds 5, open calls hold 1"),
        ("DELETE FROM holds", "the counter holds 600, open calls hold 0"),
        ("DELETE FROM counters", "open calls hold 600, no counter does"),
        ("UPDATE holds SET request_id = 'a'", "call a: it is settled, and open"),
    ],
)
def test_verify_finds_what_does_not_agree(books: Books, change: str, said: str) -> None:
    for name in "ab":
        books.hold(charge("tokens", 600, 9999, DAY), charge(), charge("calls", 1, 9), request_id=name)
    books.settle("a", row("a", total_tokens=7))
    assert verify(books.path) == []
    books.connection.execute(change)
    assert any(said in difference for difference in verify(books.path))


def test_a_call_whose_row_no_table_can_have_holds_nothing(books: Books) -> None:
    with books.turn() as counters, pytest.raises(StoreError):
        counters.hold(held(TOKENS, charge("tokens", 600, 1000, MINUTE), model="\ud800"))
    assert (books.counter("tokens"), books.minute()) == ((0, 0), {})
    assert verify(books.path) == []
