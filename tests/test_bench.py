"""The benchmark measures correctly: its stub behaves like the providers, its load generator counts correctly."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from app.config.settings import Settings
from bench import load, report, stub, wire
from bench.footprint import needs
from bench.gateways import LiteLLM, Nginx, Portkey, Torii, untouched
from bench.replicas import Simulation
from bench.rounds import Measured
from bench.scenarios import EVERY, MAIN
from bench.statistic import percentile, ratio, spread
from bench.targets import Results, verdicts
from bench.upstream import Stub

from .conftest import RunningGateway, running_gateway


@asynccontextmanager
async def running_stub() -> AsyncIterator[int]:
    """Yields the stub's port."""
    pacer = stub.Pacer()
    connections: list[stub.Upstream] = []

    def connection() -> stub.Upstream:
        connections.append(stub.Upstream(pacer))
        return connections[-1]

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        pacer.stop()
        server.close()
        for one in connections:
            one.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def gateway_to(ask: wire.Ask) -> AsyncIterator[RunningGateway]:
    """Torii in front of the stub, configured as in the benchmark."""
    async with running_stub() as port:
        values: dict[str, Any] = {"upstreams": Torii().upstreams([ask], Stub(port))}
        async with running_gateway(Settings(**values)) as gateway:
            yield gateway


async def asked(ask: wire.Ask) -> Any:
    async with gateway_to(ask) as gateway:
        answer = await gateway.post(f"/v1/{ask.endpoint}", {"model": f"{ask.place}/{ask.model}", **ask.body})
        assert answer.status_code == 200, answer.text
        return answer.text if ask.body.get("stream") else answer.json()


def numbers(vector: Any) -> list[float]:
    if isinstance(vector, str):
        packed = base64.b64decode(vector)
        return list(struct.unpack(f"<{len(packed) // 4}f", packed))
    return list(vector)


@pytest.mark.parametrize("sent", ["float", "base64"])
@pytest.mark.parametrize("want", ["float", "base64"])
async def test_vectors_come_through_torii_in_the_form_that_was_asked_for(
    sent: wire.Encoding, want: wire.Encoding
) -> None:
    ask = wire.embeddings(3, sent=sent, asked=want)
    body = await asked(ask)
    assert [isinstance(item["embedding"], str) for item in body["data"]] == [want == "base64"] * 3
    expected = msgspec.json.decode(wire.embedded(3))["data"]
    for got, item in zip(body["data"], expected, strict=True):
        assert numbers(got["embedding"]) == pytest.approx(item["embedding"], abs=1e-8)


async def test_results_of_rerank_come_through_torii() -> None:
    body = await asked(wire.rerank())
    expected = msgspec.json.decode(wire.answer("rerank"))["results"]
    assert [item["index"] for item in body["results"]] == [item["index"] for item in expected]
    assert len(body["results"]) == wire.DOCUMENTS


async def test_chat_comes_through_torii() -> None:
    body = await asked(wire.chat())
    assert body["choices"] == msgspec.json.decode(wire.answer("chat"))["choices"]


@pytest.mark.parametrize("rate", [0, 500])
async def test_every_event_of_a_stream_comes_through_torii_once(rate: int) -> None:
    text = await asked(wire.stream(rate, 40))
    assert len(wire.STAMP.findall(text.encode())) == 40
    assert text.endswith("data: [DONE]\n\n")


async def test_the_closed_loop_counts_each_answer() -> None:
    async with running_stub() as port:
        plan = load.Plan(kind="closed", port=port, requests=[untouched(wire.chat())], connections=3, seconds=0.3)
        outcome = await load.closed(plan)
    assert (outcome.failed, outcome.first_failure) == (0, "")
    assert outcome.done == len(outcome.latencies) > 0
    assert wire.answer("chat")[:100].decode() in outcome.first_answer


async def test_the_closed_loop_tells_of_failures() -> None:
    async with running_stub() as port:
        plan = load.Plan(kind="closed", port=port, requests=[untouched(wire.capped(2))], connections=3, seconds=0.05)
        outcome = await load.closed(plan)
    assert (outcome.done, outcome.failed) == (2, 3)
    assert "429" in outcome.first_failure


async def test_the_readers_of_streams_count_each_event() -> None:
    async with running_stub() as port:
        plan = load.Plan(
            kind="streams", port=port, requests=[untouched(wire.stream(0, 300))], connections=4, seconds=20
        )
        outcome = await load.streams(plan)
    assert (outcome.ended, outcome.failed, outcome.events) == (4, 0, 1200)
    assert len(outcome.late) == 1200
    assert min(outcome.late) > 0


def test_a_stamp_is_found_once_wherever_the_stream_was_cut() -> None:
    stream = b"data: @0000000000000012 @0000000000000034 end @0000000000000056"
    for one in range(len(stream)):
        for two in range(one, len(stream)):
            stamps = load.Stamps()
            found = [stamps.feed(piece) for piece in (stream[:one], stream[one:two], stream[two:])]
            assert [stamp for some in found for stamp in some] == [12, 34, 56]


def test_the_end_of_a_body_in_chunks_is_seen_wherever_it_was_cut() -> None:
    body = b"5\r\nevent\r\n0\r\n\r\n"
    for one in range(len(body)):
        for two in range(one, len(body)):
            assert load.ended([body[:one], body[one:two], body[two:]])
            assert not load.ended([body[:one], body[one:two], body[two:-1]])


async def test_the_first_event_of_a_stream_is_before_its_end() -> None:
    async with running_stub() as port:
        plan = load.Plan(kind="steady", port=port, requests=[untouched(wire.stream(20, 5))], seconds=0.5, rate=10)
        whole = await load.steady(plan)
        first = await load.steady(msgspec.structs.replace(plan, first_event=True))
    assert whole.done == first.done == 4  # the first of five is the warm-up
    assert min(whole.latencies) >= 0.15 > 0.1 > min(first.latencies)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 99) == 7


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio([10, 40, 30], [1, 2, 3]) == spread([10, 20, 10])
    assert ratio([1], []) is None


def test_a_target_is_met_or_not_and_left_out_where_nothing_was_measured() -> None:
    scenario = next(scenario for scenario in MAIN if scenario.name == "embeddings")
    measured = Measured(
        scenario, {"nginx": [{"cpu_us": 10.0}], "torii": [{"cpu_us": 50.0}], "litellm": [{"cpu_us": 100.0}]}
    )
    found = {verdict.title: verdict for verdict in verdicts(Results({"embeddings": measured}, {}))}
    assert {title: verdict.met for title, verdict in found.items()} == {
        "CPU of a call against nginx: embeddings": True,
        "CPU of a call against LiteLLM: embeddings": False,
    }
    assert found["CPU of a call against nginx: embeddings"].measured == "5 x"


def test_the_page_of_performance_has_a_place_for_the_figures() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    for name in ("measured", "growth"):
        written = report.between(page, name, "figures")
        assert f"<!-- {name}: begin -->\n\nfigures\n\n<!-- {name}: end -->" in written
        assert report.between(written, name, "figures") == written
    with pytest.raises(ValueError, match="lacks"):
        report.between("", "measured", "figures")


def test_every_scenario_is_asked_for_in_each_gateways_own_way() -> None:
    assert len({scenario.name for scenario in EVERY}) == len(EVERY)
    for scenario in EVERY:
        for gateway in (Nginx(), Torii(), LiteLLM(), Portkey()):
            head, _, body = gateway.request(scenario.ask, Stub(1234)).partition(b"\r\n\r\n")
            assert f"content-length: {len(body)}" in head.decode()
            assert msgspec.json.decode(body)["model"]


def test_the_packages_of_the_base_installation_are_counted_without_the_extras() -> None:
    needed = needs("torii-gateway")
    assert {"torii-gateway", "fastapi", "msgspec", "uvicorn"} <= needed
    assert not {"pytest", "mypy", "tiktoken", "openai"} & needed


def test_simulated_replicas_wait_for_one_lock_unless_a_slice_spares_them_the_way() -> None:
    few, again = (Simulation(1, 5, 200, turn_ms=2, seed=1).run(3) for _ in range(2))
    assert few == again
    assert few.drawn > few.calls / 2
    assert Simulation(1, 5, 200, turn_ms=2, seed=1, room=0).run(3).drawn == 0
    many = Simulation(50, 1000, 50, turn_ms=2, seed=1).run(3)
    assert max(few.waits) < 0.02 < 50 * 0.002 < max(many.waits)
    assert 2.9 < many.busy < 3.1
