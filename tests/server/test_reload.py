"""A reload that fails for another reason than a mistake in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config.loader import load
from app.config.settings import Settings
from app.server.reload import ConfigurationSource, NotRenewed, Reload

from ..conftest import until


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (
            OSError(24, "text of a library"),
            "the configuration could not be applied (OSError); the gateway's log has the cause",
        ),
        (NotRenewed("a worker kept its configuration: why"), "a worker kept its configuration: why"),
    ],
)
async def test_an_unforeseen_failure_is_told_in_words_of_ours(
    failure: Exception, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def renew(settings: Settings) -> None:
        raise failure

    path = tmp_path / "config.yaml"
    path.write_text("upstreams: {jina: {api_key: a-key}}\n")
    reload = Reload(ConfigurationSource(path, {}, load(path), {}, None), renew)
    reload.ask()
    await until(lambda: told in caplog.messages)
