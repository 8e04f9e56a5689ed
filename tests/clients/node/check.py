"""Runs the Node clients against the gateway in its sandbox, and README.md's JavaScript with them.

    .venv/bin/python tests/clients/node/check.py            or: make clients-node
    .venv/bin/python tests/clients/node/check.py openai     scripts whose name contains this

npm installs the libraries of package.json into a folder outside of this checkout: TORII_NODE_CLIENTS, or
torii-node-clients in the user's cache. Prints a line for each finding; the exit code is 1 if one of them failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import NamedTuple

import msgspec

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SCRIPT_SECONDS = 300
START_SECONDS = 30
# The status of a stream whose caller has left (see app/usage/record.py).
GONE = 499

_JAVASCRIPT = re.compile(r"^```js\n(.*?)^```$", re.M | re.S)
_BASE_URL = re.compile(r"Base URL +(http://\S+)/v1")


class Finding(NamedTuple):
    library: str
    what: str
    fault: str | None


def main() -> int:
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    folder = install()
    scripts = [path.name for path in sorted(HERE.glob("*.mjs")) if path.name != "check.mjs"] + readme_scripts(folder)
    with gateway(folder) as running:
        found: list[Finding] = []
        for script in scripts:
            if only in script:
                found += shown(run(folder, script, running.root))
        found += shown(left(running, found))
    failed = sum(finding.fault is not None for finding in found)
    print(f"\n{len(found) - failed} ok, {failed} failed")
    return 1 if failed or not found else 0


def install() -> Path:
    """The folder with the scripts and the libraries, from an earlier run or a new one."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("TORII_NODE_CLIENTS") or cache / "torii-node-clients")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.mjs"):
        old.unlink()
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, folder)
    wanted, stamp = (HERE / "package.json").read_bytes(), folder / "node_modules" / ".installed.json"
    if not stamp.exists() or stamp.read_bytes() != wanted:
        (folder / "package.json").write_bytes(wanted)
        # Without peer dependencies: @langchain/community names a hundred of them, and the needed ones are in
        # package.json.
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--legacy-peer-deps", "--loglevel=error"]
        subprocess.run(["npm", "install", *options], cwd=folder, check=True)
        stamp.write_bytes(wanted)
    return folder


def readme_scripts(folder: Path) -> list[str]:
    """Every piece of JavaScript in README.md as a script of its own."""
    names = []
    for number, code in enumerate(_JAVASCRIPT.findall((ROOT / "README.md").read_text(encoding="utf-8")), 1):
        names.append(f"readme-{number}.mjs")
        (folder / names[-1]).write_text(code, encoding="utf-8")
    return names


@dataclass
class Gateway:
    process: subprocess.Popen[str]
    lines: Queue[str] = field(default_factory=Queue)
    root: str = ""

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line)

    def until_started(self) -> None:
        while not (address := _BASE_URL.search(self.lines.get(timeout=START_SECONDS))):
            pass
        self.root = address[1]

    def left(self, count: int) -> int:
        """The number of calls recorded as left by their callers, waiting briefly for ``count`` of them."""
        seen = 0
        try:
            while seen < count:
                seen += f'"status":{GONE}' in self.lines.get(timeout=5)
        except Empty:
            pass
        return seen


@contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    """The gateway in its sandbox, on a free port, with only these settings."""
    settings = {
        "PYTHONPATH": str(ROOT),
        "TORII_SANDBOX_TIME_SCALE": "0",
        "TORII_PORT": "0",
        "XDG_RUNTIME_DIR": str(folder),
    }
    settings["TORII_CACHE__STORE"] = "off"  # otherwise the second of two identical calls would have no usage
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TORII_")}
    command = [sys.executable, "-m", "app", "serve", "--sandbox"]
    # In the folder of the scripts, which has no config.yaml.
    process = subprocess.Popen(command, cwd=folder, env={**plain, **settings}, stderr=subprocess.PIPE, text=True)
    running = Gateway(process)
    threading.Thread(target=running.read, daemon=True).start()
    try:
        running.until_started()
        yield running
    finally:
        process.terminate()
        process.wait()


def run(folder: Path, script: str, root: str) -> Iterator[Finding]:
    """The findings of a script, and one more if it exits with an error. Scripts of README.md only need to print
    something."""
    own = script.startswith("readme-")
    if own:
        path = folder / script
        path.write_text(path.read_text(encoding="utf-8").replace("http://localhost:8000", root), encoding="utf-8")
    node = folder / "node_modules" / ".bin" / "node"
    command = [str(node) if node.exists() else "node", script]
    environment = {**os.environ, "TORII_ROOT": root, "NO_PROXY": "127.0.0.1,localhost"}
    try:
        ended = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SCRIPT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding(script, "the script ends", f"it did not within {SCRIPT_SECONDS} seconds")
        return
    findings = [line for line in ended.stdout.splitlines() if line.startswith('{"library":')]
    yield from map(finding, findings)
    fault = None if ended.returncode == 0 and ended.stdout.strip() else ended.stderr[-2000:] or "it printed nothing"
    if own or fault:
        yield Finding("README.md" if own else script, f"{script} runs to its end", fault)


def finding(line: str) -> Finding:
    told = msgspec.json.decode(line)
    return Finding(told["library"], told["what"], told["fault"])


def left(running: Gateway, found: Iterable[Finding]) -> Iterator[Finding]:
    """A finding for each aborted stream: the gateway must have recorded that it ended there."""
    aborted = sum(finding.what.endswith("stream aborted") for finding in found)
    if aborted:
        seen = running.left(aborted)
        fault = None if seen == aborted else f"{seen} of {aborted} were"
        yield Finding("torii", f"the {aborted} aborted streams were seen to be left", fault)


def shown(findings: Iterable[Finding]) -> list[Finding]:
    kept = []
    for finding in findings:
        print(f"{finding.library:26} | {finding.what:55} | {'ok' if finding.fault is None else 'FAILED'}", flush=True)
        if finding.fault is not None:
            print("    " + finding.fault.strip().replace("\n", "\n    "), flush=True)
        kept.append(finding)
    return kept


if __name__ == "__main__":
    sys.exit(main())
