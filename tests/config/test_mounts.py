"""Mounts in a container: a folder shows a file that an editor has replaced, a single-file mount does not."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from app.storage.files import mounted

from ..cli.test_cli import torii
from ..conftest import JINA_KEY
from ..program import Program, started

CALLER = "callers: [{name: one, key: the-key-of-caller-one}]"
TWO = "callers: [{name: one, key: another-key-of-caller-one}]"
CURE = "if the file is replaced outside, as editors do, only a restart reads the new file; mount its folder instead"


def mounting(*pairs: tuple[Path, Path]) -> list[str]:
    """A command that makes the mounts in its own namespace, then runs the rest as its command line. Each mount is
    source and target."""
    words = [str(path) for pair in pairs for path in pair]
    script = "".join(f'mount --bind "${{{2 * at + 1}}}" "${{{2 * at + 2}}}" && ' for at in range(len(pairs)))
    for ways in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        if subprocess.run([*ways, "true"], capture_output=True, check=False).returncode == 0:
            return [*ways, "sh", "-c", f'{script} shift {len(words)} && exec "$@"', "sh", *words]
    pytest.skip("this system lets no process have mounts of its own: what a reload says of them was not tried")


def replace(path: Path, text: str) -> None:
    """Replaces the file by another one, as editors do."""
    (path.parent / "new").write_text(text)
    (path.parent / "new").rename(path)


async def reload(running: Program) -> str:
    folder = running.folder
    words = ("reload", "--port", str(running.port))
    done = await asyncio.to_thread(torii, *words, cwd=folder, JINA_API_KEY=JINA_KEY, XDG_RUNTIME_DIR=str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


async def status(running: Program, key: str) -> int:
    return (await running.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code


async def test_a_reload_that_cannot_see_a_replaced_file_says_so(tmp_path: Path) -> None:
    for name in ("host", "secrets"):
        (tmp_path / name).mkdir()
    outside, secret = tmp_path / "host" / "a config.yaml", tmp_path / "secrets" / "jina_api_key"
    outside.write_text(f"{CALLER}\n")
    (tmp_path / "host" / "key").write_text(JINA_KEY)
    secret.touch()
    seen = tmp_path / "a config.yaml"
    seen.touch()
    before = mounting((outside, seen), (tmp_path / "host" / "key", secret))
    setting = ["env", f"TORII_SECRETS_DIR={secret.parent}", *before]
    async with started(Program, tmp_path, b"", "--config", str(seen), before=setting) as running:
        told = f"{seen} and {secret} are mounted as single files: {CURE} (docs/deployment.md)"
        assert await reload(running) == f"nothing changed\n{told}\n"
        replace(outside, f"{TWO}\n")
        assert (await reload(running)).startswith(f"nothing changed\n{seen} and ")
        assert await status(running, "the-key-of-caller-one") == 200
        assert CURE in running.log


async def test_a_folder_that_is_mounted_shows_a_replaced_file(tmp_path: Path) -> None:
    for name in ("host", "etc"):
        (tmp_path / name).mkdir()
    (tmp_path / "host" / "config.yaml").write_text(f"{CALLER}\n")
    (tmp_path / "etc" / "config.yaml").write_text(f"{CALLER}\n")
    words = ("--config", str(tmp_path / "etc" / "config.yaml"), "--sandbox")
    async with started(
        Program, tmp_path, b"", *words, before=mounting((tmp_path / "host", tmp_path / "etc"))
    ) as running:
        assert await reload(running) == "nothing changed\n"
        replace(tmp_path / "host" / "config.yaml", f"{TWO}\n")
        assert await reload(running) == "reloaded; changed: callers\n"
        assert await status(running, "the-key-of-caller-one") == 401


def test_where_there_is_no_table_of_mounts_nothing_is_said(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    file = tmp_path / "a file"
    file.touch()
    assert not mounted(file, table)
    spelt = str(file).replace(" ", "\\040")
    table.write_text(f"63 43 254:0 /tmp/um/a {spelt} rw,relatime - ext4 /dev/vda rw\n")
    assert mounted(file, table)
    assert not mounted(table, table)
