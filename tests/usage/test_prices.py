"""Prices: whole nano-dollars from decimals, and the files that they are imported from."""

from __future__ import annotations

from datetime import date
from decimal import ROUND_CEILING, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.usage.price_files import PriceFile, Row, read
from app.usage.prices import Price, Prices, price_of

DAY = date(2026, 11, 30)
SAID = {"source": "prices.json", "date": "2026-11-30"}


@given(
    st.decimals(0, 1000, places=9),
    st.decimals(0, 1000, places=9),
    st.decimals(0, 10, places=9),
    st.integers(0, 10**10),
    st.integers(0, 10**7),
    st.integers(0, 5),
)
def test_a_cost_is_exact_and_rounded_up(
    into: Decimal, out: Decimal, each: Decimal, prompt: int, completion: int, calls: int
) -> None:
    exact = (into * prompt + out * completion) * 1000 + each * calls * 10**9
    price = price_of(into, out, each)
    assert price.cost(prompt, completion, calls) == int(exact.to_integral_value(ROUND_CEILING))
    assert price.most(prompt, completion, 7) >= max(
        price.cost(prompt + part, completion + 7 - part) for part in range(8)
    )


def test_what_a_price_says() -> None:
    assert price_of("0.02", "0.1", source="s", date=DAY) == Price(20_000_000, 100_000_000, 0, "s", "2026-11-30")
    assert price_of("0.02") == price_of(output="0.02") == price_of("0.02", "0.02")
    assert price_of("0.02", 0).output == 0
    assert price_of("0.02").cost(1, 0) == 20
    assert price_of("0.000000001").cost(1, 0) == 1
    assert price_of(per_call="0.002").cost(10**6, 10**6) == 2_000_000
    assert (price_of(per_call=1).flat, price_of("1").flat) == (True, False)
    with pytest.raises(ValueError, match="must have a price"):
        price_of()
    with pytest.raises(ValueError, match=r"output must be an amount in dollars"):
        price_of("1", "-1")


def test_a_model_without_a_price() -> None:
    price = price_of("1")
    prices = Prices({"jina": {"jina-embeddings-v3": price}})
    assert prices.of("jina", "jina-embeddings-V3") == prices.of("jina", "alias", "jina-embeddings-v3") == price
    assert prices.of("aihubmix", "jina-embeddings-v3") is prices.of("jina", "other") is Prices().of("a", "b") is None


def table(text: str) -> dict[str, dict[str, Row]]:
    return read(text, "prices.json", DAY).table


def test_a_csv() -> None:
    found = table(
        "\ufeffModel,upstream,input,output,per_call,source,date\r\n"
        'jina-embeddings-v3,jina,0.02,,,"invoice, page 2",2026-10-01\r\n'
        "\r\n"
        "jina-deepsearch-v1,aihubmix,0.05,0.2,,,\r\n"
        "judge,jina,,,0.002,,\r\n"
    )
    assert found == {
        "jina": {
            "jina-embeddings-v3": {
                "input": "0.02",
                "output": "0.02",
                "source": "invoice, page 2",
                "date": "2026-10-01",
            },
            "judge": {"per_call": "0.002", **SAID},
        },
        "aihubmix": {"jina-deepsearch-v1": {"input": "0.05", "output": "0.2", **SAID}},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the first line must name the columns, of upstream, .*; it has no upstream"),
        ("upstream,model,imput\n", "has 'imput'. Nearest: input"),
        ("upstream,model,model\n", "names a column twice"),
        ("upstream,input\n", "has no model"),
        ("upstream,model,input\njina,a,1\njina,b\n", "line 3: must have 3 fields"),
        ("upstream,model,input\njina,a,one\n", "line 2: input must be an amount in dollars"),
        ("upstream,model,input\njina,a,1e3\n", "line 2: input must be an amount in dollars"),
        ("upstream,model,input\njina,a,\n", "line 2: must have a price"),
        ("upstream,model,input\n,a,1\n", "line 2: upstream is empty"),
        ("upstream,model,input,date\njina,a,1,soon\n", "line 2: date must be a date such as 2026-11-30, not 'soon'"),
        ("upstream,model,input\njina,a,1\njina,a,2\n", "line 3: a at jina has a price already"),
        ('upstream,model,input\njina,"a,1\n', "line 2: unexpected end of data"),
        ("{", "must be a CSV, or LiteLLM's price file"),
        ("[]", "must be a CSV, or LiteLLM's price file"),
        ('{"a": 1}', "must be a CSV, or LiteLLM's price file"),
        ('{"a": {"mode": "chat"}}', "has no entry with input_cost_per_token"),
        (
            '{"jina_ai/a": {"litellm_provider": "jina_ai", "input_cost_per_token": "1"}}',
            r"jina_ai/a.input_cost_per_token must be a number",
        ),
        (
            '{"jina_ai/a": {"litellm_provider": "jina_ai", "input_cost_per_token": -1}}',
            r"jina_ai/a.input_cost_per_token must be a number of at least 0",
        ),
    ],
)
def test_a_file_that_is_wrong_says_where(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(text, "prices.csv", DAY)


LITELLM = """{
    "sample_spec": {"litellm_provider": "one of the providers", "input_cost_per_token": 0.0, "mode": "chat"},
    "jina_ai/jina-embeddings-v3": {"input_cost_per_token": 2e-08, "output_cost_per_token": 0.0,
        "litellm_provider": "jina_ai", "mode": "embedding", "max_input_tokens": 8192},
    "jina-reranker-v2-base-multilingual": {"input_cost_per_token": 1.8e-08, "output_cost_per_token": 1.8e-08,
        "litellm_provider": "jina_ai", "mode": "rerank"},
    "gpt-x": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05, "litellm_provider": "openai"},
    "search": {"input_cost_per_query": 0.002, "litellm_provider": "openai"},
    "free": {"input_cost_per_token": 0, "output_cost_per_token": 0, "litellm_provider": "openai"},
    "picture": {"input_cost_per_pixel": 1e-08, "litellm_provider": "openai"},
    "cohere-x": {"input_cost_per_token": 1e-06, "litellm_provider": "cohere"}
}"""


def test_litellms_file() -> None:
    found = read(LITELLM, "prices.json", DAY)
    assert found == PriceFile(
        {
            "jina": {
                "jina-embeddings-v3": {"input": "0.02", "output": "0", **SAID},
                "jina-reranker-v2-base-multilingual": {"input": "0.018", "output": "0.018", **SAID},
            },
            "openai": {
                "gpt-x": {"input": "2.5", "output": "10", **SAID},
                "search": {"per_call": "0.002", **SAID},
                "free": {"input": "0", "output": "0", **SAID},
            },
        },
        skipped=3,
    )
    mine = read(LITELLM, "prices.json", DAY, {"cohere": "mine"})
    assert [*mine.table] == ["mine"]
    for models in found.table.values():
        for row in models.values():
            assert price_of(**row).date == "2026-11-30"  # the rows are what the configuration takes
