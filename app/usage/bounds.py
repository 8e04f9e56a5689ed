"""The most tokens and dollars that a call can cost, known before it is sent. No I/O.

A tokenizer makes at most one token of each byte of UTF-8, and adds a few of its own: marks for the beginning and the
end, and the model's instruction for a task. Some normalize the text first, so the longer of both forms counts.

    embeddings   the bytes and 16 of each input
    rerank       the bytes of the documents, and for each of them the bytes of the query and 16
    chat         the bytes of the request and 16 for each message, and n x max_tokens; without max_tokens n times the
                 model's context
    classify     as embeddings, and the bytes and 16 of each label for each request to the provider
    train        as embeddings, labels included, times num_iters
    segment      no tokens
    DeepSearch   budget_tokens times a factor: the server looks at its budget between the steps of a run only
    reader       X-Token-Budget, which the provider keeps to; without one its cap
    search       its price by the number of results, and 20,000 for each page that is read
    svip         the same, since nobody has published its price
    pictures     the model's published price of a tile, if the picture comes in base64
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from ..core.classifiers import MOST_INPUTS, SEGMENT
from ..core.errors import InvalidRequest
from ..core.json import encode
from ..core.pictures import size_of
from ..core.types import Call, EndpointName, Json, Model
from ..core.web import MOST_TOKENS, READ_TOKENS, TOKEN_BUDGET, WebCall
from ..upstreams.deepsearch import PARAMETERS
from .prices import Price

EXTRA = 16  # tokens that a tokenizer or a template adds to an input or a message
TEMPLATE = 64  # what a chat template adds to a request
TOOLS = 1024  # what it adds to explain tools
LEAST_BUDGET = 10_000  # tokens: with less, DeepSearch gets to no answer
BUDGETS = {"low": 100_000, "medium": 500_000, "high": 1_000_000}  # of DeepSearch's efforts
EFFORT = "medium"
LARGEST = 2**53
RESULTS = 10  # of a search that does not say
SVIP_RESULTS = 30  # of one at svip.jina.ai
SEARCH_PRICE = 10_000  # tokens for 10 results, at least

# The side of a tile in pixels and the tokens of each, from the questions and answers at jina.ai/embeddings.
TILES = {"jina-clip-v1": (224, 1000), "jina-clip-v2": (512, 4000), "jina-embeddings-v4": (28, 10)}
PICTURES = ("image", "url", "bytes")
MEDIA = frozenset((*PICTURES, "audio", "video", "pdf", "file"))
# The types of the parts of a message that are text.
TEXTS = ("text", "input_text", "output_text", "refusal")


class Bound(NamedTuple):
    """The most that a call can cost. ``tokens`` None: nobody knows. ``cost`` is in nano-dollars, None without a price.
    ``field`` names what a caller can send to bound the call, ``max_tokens`` for instance, and ``hint`` says how if the
    name alone does not."""

    tokens: int | None
    cost: int | None = None
    field: str = ""
    hint: str = ""


class Unbounded(Exception):
    """Nobody knows the bound unless the call has the ``field``, as the ``hint`` says."""

    def __init__(self, field: str, hint: str = "") -> None:
        super().__init__(field)
        self.field = field
        self.hint = hint


def bound(call: Call, model: Model, price: Price | None = None, factor: float = 2) -> Bound:
    """The bound of the requests for ``call`` to ``model``. ``price`` is the model's at the upstream that is asked; a
    price for each call alone needs no tokens, and counts for each request of a call that is split. ``factor``: a
    DeepSearch run uses at most this many times its budget.

    Raises InvalidRequest for a DeepSearch budget that is none.
    """
    if call.endpoint is SEGMENT:
        return Bound(0, 0 if price is None else price.cost(0, 0))
    try:
        tokens = _tokens(call, model, factor)
    except Unbounded as unknown:
        cost = price.cost(0, 0, requests(call, model)) if price is not None and price.flat else None
        return Bound(None, cost, unknown.field, unknown.hint)
    further = requests(call, model) - 1
    return Bound(sum(tokens), None if price is None else price.most(*tokens) + further * price.per_call)


def requests(call: Call, model: Model) -> int:
    """The requests to the provider for a call, which is split if it has more inputs than one may have."""
    if call.endpoint.name == "classify":
        return -(-len(call.body["input"]) // min(model.max_inputs or MOST_INPUTS, MOST_INPUTS))
    if not call.endpoint.inputs or model.max_inputs is None:
        return 1
    return -(-len(call.body[call.endpoint.inputs]) // model.max_inputs)


# The most tokens of the prompt, of the completion, and of either.
Most = tuple[int, int, int]


def _tokens(call: Call, model: Model, factor: float) -> Most:
    """Raises Unbounded."""
    if isinstance(call, WebCall):
        return 0, MOST_OF_PAGES[call.endpoint.name](call), 0
    if model.deepsearch:
        return 0, 0, math.ceil(budget_of(call) * factor)
    if call.endpoint.writes:
        return _chat(call.body, model)
    if call.endpoint.name == "rerank":
        return _rerank(call.body, model), 0, 0
    if call.endpoint.name == "embeddings":
        return _inputs(call.body["input"], model), 0, 0
    if call.endpoint.name in ("classify", "train"):
        return (_inputs(call.body["input"], model) + _labels(call, model)) * call.passes, 0, 0
    return _text(call.body) + EXTRA, 0, 0


def page_budget(call: WebCall) -> int:
    """The most tokens of a page: those of its X-Token-Budget, or what the provider charges at most."""
    return min(int(call.headers.get(TOKEN_BUDGET, MOST_TOKENS)), MOST_TOKENS)


def _search(call: WebCall) -> int:
    """The fixed price for each 10 results, and the pages, unless none is read. Source: jina-ai/reader (2026-05)."""
    body = call.body
    number: int = body.get("num") or RESULTS  # 0 means as many as usual
    scale = 5 if body.get("type") in ("images", "news") else 3 if body.get("provider") == "bing" else 1
    reads = "no-content" not in call.headers.get("x-respond-with", "")
    return min(SEARCH_PRICE * scale * max(-(-number // 10), 1) + READ_TOKENS * number * reads, MOST_TOKENS)


def _svip(call: WebCall) -> int:
    """As ``_search``: the results of a search, and the pages that a deep one reads; one page for all else."""
    body = call.body
    number, reads = 1, 1
    if call.path == "/" and not body.get("url"):
        number = body.get("num") or SVIP_RESULTS
        reads = (body.get("read_num") or number) * (body.get("meta") == "deep")
    return min(SEARCH_PRICE * -(-number // 10) + READ_TOKENS * reads, MOST_TOKENS)


MOST_OF_PAGES: Mapping[EndpointName, Callable[[WebCall], int]] = {
    "reader": page_budget,
    "search": _search,
    "svip": _svip,
}


def _inputs(items: list[Any], model: Model) -> int:
    total = EXTRA * len(items)
    for place, item in enumerate(items):
        total += length(item) if type(item) is str else _content(item, model, f"input[{place}]")
    return total


def _labels(call: Call, model: Model) -> int:
    """The labels, and the names of their groups, which are sent with each request of a call that is split."""
    labels = call.body.get("labels") or []
    groups = [[*labels, *chain.from_iterable(labels.values())]] if isinstance(labels, dict) else [labels]
    return requests(call, model) * sum(EXTRA + length(str(label)) for group in groups for label in group)


def _input(item: Any, model: Model, place: str) -> int:
    """The most tokens of one input, an object or a text."""
    return EXTRA + _content(item, model, place)


def _content(item: Any, model: Model, place: str) -> int:
    if isinstance(item, str):
        return length(item)
    if isinstance(item, list):
        if all(type(part) is int for part in item):  # token ids
            return len(item)
        return sum(_input(part, model, f"{place}[{number}]") for number, part in enumerate(item))
    if not isinstance(item, dict):
        return _text(item)
    total = 0
    for name, value in item.items():
        if name == "content":
            total += _content(value, model, f"{place}.content")
        elif name in MEDIA and value is not None:
            total += _medium(name, value, model, f"{place}.{name}")
        else:
            total += length(value) if isinstance(value, str) else _text(value)
    return total


def _medium(name: str, value: Any, model: Model, place: str) -> int:
    tile = TILES.get(model.id) if name in PICTURES else None
    if tile is None:
        what = "pictures" if name in PICTURES else name
        raise Unbounded(place, f"leave {place} out: nobody has published how many tokens {model.id} takes for {what}")
    size = size_of(value) if isinstance(value, str) else None
    if size is None:
        raise Unbounded(place, f"send {place} in base64, as PNG, JPEG, GIF or WebP: its tokens depend on its size")
    side, tokens = tile
    return -(-size[0] // side) * -(-size[1] // side) * tokens


def _rerank(body: Json, model: Model) -> int:
    documents = body["documents"]
    query = _content(body["query"], model, "query")
    read = sum(_content(document, model, f"documents[{place}]") for place, document in enumerate(documents))
    return read + len(documents) * (query + EXTRA)


def _chat(body: Json, model: Model) -> Most:
    answers = body.get("n")
    if answers is None:
        answers = 1
    elif type(answers) is not int or not 0 < answers < LARGEST:
        raise Unbounded("n", "send n as a whole number of at least 1")
    most = _most(body)
    if most is None and model.context is None:
        raise Unbounded("max_completion_tokens" if "max_completion_tokens" in body else "max_tokens")
    if any(_has_media(message) for message in body["messages"]):
        prompt = model.context
    else:
        prompt = _text(body) + EXTRA * len(body["messages"]) + TEMPLATE
        prompt += TOOLS if body.get("tools") or body.get("functions") else 0
    if prompt is None:
        raise Unbounded(
            "messages", f"send text only: nobody has published how many tokens {model.id} takes for other parts"
        )
    if most is None:
        assert model.context is not None
        return 0, 0, answers * model.context  # each answer ends where the context does
    return prompt, answers * most, 0


def _most(body: Json) -> int | None:
    """The most tokens of an answer that the body asks for; None if it does not say, or not by a number."""
    said = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    if any(type(most) is not int or not 0 <= most < LARGEST for most in said):
        return None
    return max(said, default=None)


def _has_media(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return isinstance(message, dict) and message.get("audio") is not None
    return any(isinstance(part, dict) and part.get("type", "text") not in TEXTS for part in content)


def length(text: str) -> int:
    """The bytes of a text in UTF-8, or those of its compatible form (NFKC), whichever are more."""
    if text.isascii():
        return len(text)
    said = len(text.encode("utf-8", "surrogatepass"))
    if unicodedata.is_normalized("NFKC", text):
        return said
    return max(said, len(unicodedata.normalize("NFKC", text).encode("utf-8", "surrogatepass")))


def _text(value: Any) -> int:
    """The length of a value's JSON, names and marks included: templates and documents show both."""
    return length(encode(value).decode("utf-8", "surrogatepass"))


def budget_of(call: Call) -> int:
    """The token budget of a DeepSearch run, which may exceed it: ``budget_tokens``, or else that of its effort.

    Raises InvalidRequest if it is neither.
    """
    body = call.body
    stated = body.get("budget_tokens")
    if stated is not None:
        return int(PARAMETERS["budget_tokens"]("budget_tokens", stated))
    effort = body.get("reasoning_effort")
    return BUDGETS[EFFORT if effort is None else str(PARAMETERS["reasoning_effort"]("reasoning_effort", effort))]


def deepsearch_budget(call: Call, most: int | None, left: int | None, factor: float) -> int:
    """The ``budget_tokens`` to send for a run: the least of what the call states, ``most``, and the tokens that are
    left of the caller's limits and budgets, divided by ``factor``. None is no bound. The run's hold is the result
    times ``factor``.

    If less than LEAST_BUDGET is left, it is LEAST_BUDGET all the same: its hold does not fit, so that the refusal names
    the limit. Raises InvalidRequest if the call states less, and as ``budget_of``.
    """
    stated = budget_of(call)
    if stated < LEAST_BUDGET:
        raise InvalidRequest(
            f"budget_tokens must be at least {LEAST_BUDGET}: with less, DeepSearch gets to no answer",
            param="budget_tokens",
        )
    bounds: Iterable[int | None] = (stated, most, None if left is None else math.floor(left / factor))
    return max(min(bound for bound in bounds if bound is not None), LEAST_BUDGET)


def plus(one: Bound, other: Bound) -> Bound:
    """The bound of both; None where one is unknown."""
    tokens = None if one.tokens is None or other.tokens is None else one.tokens + other.tokens
    return Bound(tokens, None if one.cost is None or other.cost is None else one.cost + other.cost)


def less(bound: Bound, unused: Bound) -> Bound:
    """The missing part of a bound if ``unused`` is held already."""
    tokens = None if bound.tokens is None else max(bound.tokens - (unused.tokens or 0), 0)
    cost = None if bound.cost is None else max(bound.cost - (unused.cost or 0), 0)
    return Bound(tokens, cost, bound.field)
