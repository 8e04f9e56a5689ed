"""A run of DeepSearch, as the server behind both providers would make it.

    question -> steps (search, visit, words of thought) -> answer with footnotes

This module builds the run; deepsearch.py and aihubmix.py write it in the format of each provider.

The quirks of the real server are kept. Steps are repeated as often as it repeats them (see steps.py). ``visitedURLs``
leaves out the pages that were read and includes junk. A page without a date gets a footnote but no annotation. The
total of the usage is not the sum of its parts, and no budget caps it. A schema is not checked before the answer exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from . import corpus, messages
from .corpus import JUNK, Hit
from .messages import Question
from .schema import Filler
from .steps import Step, steps, words
from .wire import Json, Pause, count, pretty

_EFFORTS = {"low": (100_000, 1), "medium": (500_000, 2), "high": (1_000_000, 4)}
_TOKENS_PER_PAGE = 60_000
_PROVIDERS = ("jina", "arxiv", "duck", "brave", "serper")


@dataclass(frozen=True, slots=True)
class Citation:
    title: str
    quote: str
    url: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """``citations`` None: no annotations key. ``failure``: the error that ended the run without an answer."""

    steps: list[Step]
    content: str
    kind: str
    usage: Json
    citations: list[Citation] | None = None
    failure: str | None = None
    extras: Json = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps if isinstance(step, Pause))


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a request that steer the run."""

    question: Question
    body: Json
    schema: Any = None
    quirk: str = ""

    @property
    def budget(self) -> int:
        """In tokens. ``max_completion_tokens`` is a budget too, not a limit of the output."""
        given = count(self.body.get("budget_tokens")) or count(self.body.get("max_completion_tokens"))
        return given or self._effort[0]

    @property
    def _effort(self) -> tuple[int, int]:
        """Budget in tokens and number of pages; an unknown effort counts as medium."""
        return _EFFORTS.get(str(self.body.get("reasoning_effort")), _EFFORTS["medium"])

    @property
    def pages(self) -> int:
        """The maximum number of pages to read."""
        return max(1, min(self._effort[1], self.budget // _TOKENS_PER_PAGE))

    @property
    def team(self) -> int:
        """The number of sub-questions: three for a team of any size, else one."""
        return 3 if (count(self.body.get("team_size")) or 1) > 1 else 1

    @property
    def searches(self) -> bool:
        """False for an unknown search provider: the server then searches nothing, without an error."""
        return self.body.get("search_provider") in (None, *_PROVIDERS)

    def hosts(self, name: str) -> list[str]:
        return [str(host).lower().removeprefix("www.") for host in self.body.get(name) or []]


def run(plan: Plan) -> Run:
    """Deterministic: the same request gives the same run."""
    failure = _failure(plan)
    if failure:
        begun = [] if plan.quirk == "deepsearch-error-early" else words("I need to look at the request. ")
        return Run(steps=begun, content="", kind="error", usage=_usage(plan, 0), failure=failure)
    found = corpus.search(plan.question.topic) if plan.searches else []
    relevant = [hit for hit in found if hit.relevant]
    if (
        found
        and not relevant
        and len(plan.question.topic.split()) <= 3
        and plan.body.get("no_direct_answer") is not True
    ):
        return _direct(plan)
    return _researched(plan, relevant or found[:1], known=bool(relevant))


def _failure(plan: Plan) -> str | None:
    if plan.quirk in ("deepsearch-error", "deepsearch-error-early"):
        return "Token budget exceeded while calling model"
    for name in ("boost_hostnames", "bad_hostnames", "only_hostnames"):
        if plan.body.get(name) is not None and not isinstance(plan.body[name], list):
            return f"body.{name}?.map is not a function"
    return None


def _direct(plan: Plan) -> Run:
    """An answer without a search, and without a thought between the tags."""
    text = "Hello! This is the Torii sandbox: ask about tides, torii gates, green tea or the gateway itself."
    answer = f"{text}{_attached(plan.question)}"
    content, kind = _formed(plan, answer, {})
    return Run(steps=[], content=content, kind=kind, usage=_usage(plan, 0), extras=_extras(plan, [], []))


def _researched(plan: Plan, hits: list[Hit], *, known: bool) -> Run:
    found = [hit.page.url for hit in hits]
    read = _readable(plan, hits)[: plan.pages]
    answer = _answer(plan, read, known=known)
    content, kind = _formed(plan, answer, _facts(read))
    return Run(
        steps=_steps(plan, read),
        content=content,
        kind=kind,
        usage=_usage(plan, len(read)),
        citations=_citations(plan, read),
        extras=_extras(plan, found, [hit.page.url for hit in read]),
    )


def _readable(plan: Plan, hits: list[Hit]) -> list[Hit]:
    """The hits that the host lists allow, boosted hosts first."""
    only, bad, boost = plan.hosts("only_hostnames"), plan.hosts("bad_hostnames"), plan.hosts("boost_hostnames")
    if plan.body.get("search_provider") == "arxiv":
        only = ["papers.example.org"]
    allowed = [hit for hit in hits if hit.page.host not in bad and (not only or hit.page.host in only)]
    return sorted(allowed, key=lambda hit: hit.page.host not in boost)


# --------------------------------------------------------------------------- steps


def _steps(plan: Plan, read: list[Hit]) -> list[Step]:
    queries = _queries(plan, read) if plan.searches else []
    notes = "".join(f"{hit.page.title} says: {hit.sentence} " for hit in read)
    return steps(plan.question.topic, queries, [hit.page.url for hit in read], notes, plan.quirk)


def _queries(plan: Plan, read: list[Hit]) -> list[str]:
    language = plan.body.get("search_language_code")
    suffix = f" lang:{language}" if isinstance(language, str) else ""
    words = " ".join(re.findall(r"[^\W_]+", plan.question.topic)[:8]) or "sandbox"
    more = [hit.page.title.casefold() for hit in read][: plan.team]
    return [f"{query}{suffix}" for query in dict.fromkeys([words.casefold(), *more])]


# -------------------------------------------------------------------------- answer


def _answer(plan: Plan, read: list[Hit], *, known: bool) -> str:
    opening = (
        f"This answer comes from the Torii sandbox, which knows {len(corpus.PAGES)} built-in pages and no network."
    )
    if not read:
        return f"{opening} None of the pages that it found may be read.{_attached(plan.question)}"
    if not known:
        opening += " No page is about your question; the nearest says:"
    body = " ".join(_cited(hit.sentence, number) for number, hit in enumerate(read, 1))
    notes = "\n\n".join(_footnote(hit, number) for number, hit in enumerate(read, 1))
    return f"{opening}{_attached(plan.question)}\n\n{body}\n\n{notes}"


def _cited(sentence: str, number: int) -> str:
    return f"{sentence[:-1]} [^{number}]{sentence[-1]}"


def _footnote(hit: Hit, number: int) -> str:
    """The quote lacks its punctuation, as at Jina."""
    quote = re.sub(r"[^\w\u2028\u2029\u0085]+", " ", hit.sentence).strip()
    return f"[^{number}]: {quote} [{hit.page.title}]({hit.page.url})"


def _attached(question: Question) -> str:
    what = ", ".join(str(attachment) for attachment in question.attachments)
    return f" With your message came: {what}." if what else ""


def _citations(plan: Plan, read: Iterable[Hit]) -> list[Citation]:
    dated = [Citation(hit.page.title, hit.sentence, hit.page.url, hit.page.date) for hit in read if hit.page.date]
    most = plan.body.get("max_annotations")
    return dated[: count(most) or (1 if most == 0 else 10)]


def _formed(plan: Plan, answer: str, facts: dict[str, str]) -> tuple[str, str]:
    """The answer and its type. With a schema: JSON that fits the schema, or prose of type ``json`` if filling it
    failed."""
    if plan.schema is None:
        return answer, "text"
    text = facts.get("sentence") or answer
    try:
        value = Filler(plan.schema, text, facts).value()
    except ValueError:
        return answer, "json"
    match plan.quirk:
        case "json-prose":
            return answer, "json"
        case "json-string":
            return pretty(text), "json"
        case "json-object":
            return pretty({"unasked": value}), "json"
    return pretty(value), "json"


def _facts(read: list[Hit]) -> dict[str, str]:
    if not read:
        return {}
    page = read[0].page
    source = dict.fromkeys(("url", "link", "source", "source_url"), page.url)
    return {"sentence": read[0].sentence, "title": page.title, "date": page.date, **source}


def _usage(plan: Plan, pages: int) -> Json:
    """A large number of tokens per page read, whatever the budget: the server checks it only between steps. The
    total is not the sum."""
    prompt = 18_000 + 21_500 * pages + len(plan.question.text)
    completion = 2_600 + 3_250 * pages
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion - 450,
    }


def _extras(plan: Plan, found: list[str], read: list[str]) -> Json:
    """``visitedURLs``: the first ``max_returned_urls`` pages that were found and not read; ``numURLs`` counts all of
    them.

    A team lists the same pages twice.
    """
    everything = [url for url in [*found, *JUNK] if url not in read] if found else []
    if plan.team > 1:
        everything, read = everything * 2, read * 2
    most = plan.body.get("max_returned_urls", 100)
    shown = everything[: int(most)] if str(most).isdecimal() else everything
    images = {"relatedImages": [f"{url}.png" for url in read]} if plan.body.get("with_images") is True else {}
    return {"visitedURLs": shown, "readURLs": read, "numURLs": len(everything), **images}


# --------------------------------------------------------------------- the request


def plan(body: Json, quirk: str, schema: Any = None) -> Plan | None:
    """The plan of a request; None if the last message is not from the user.

    Messages without content are dropped first, as the server does; system messages are ignored. An image or a file in
    an assistant message empties the question, and the run is about nothing.
    """
    spoken = [message for message in body["messages"] if isinstance(message, dict) and message.get("content")]
    if not spoken or spoken[-1].get("role") != "user":
        return None
    lost = any(message.get("role") == "assistant" and messages.attached(message) for message in spoken)
    return Plan(Question("") if lost else messages.overlooking(spoken[-1]), body, schema, quirk)
