"""The sandboxed gateway against its own /openapi.json, by Schemathesis: no 500, nothing that the document does not
have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
START_SECONDS = 30


def main() -> int:
    """The exit code of Schemathesis; 1 if it is not installed or the gateway does not start."""
    command = shutil.which("schemathesis", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        print("Schemathesis is not installed; this does it: pip install -e '.[faults]'", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": folder,
            "TORII_SANDBOX_TIME_SCALE": "0",
        }
        start = [sys.executable, "-m", "app", "serve", "--sandbox", "--port", "0"]
        with log.open("wb") as out:
            gateway = subprocess.Popen(start, cwd=folder, env=environment, stdout=out, stderr=out)
        try:
            url = base_url(log)
            return checked(command, url, folder) if url else 1
        finally:
            gateway.terminate()
            gateway.wait(30)


def base_url(log: Path) -> str:
    """The gateway's URL, once the log has it; empty if it never does."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if "Press Ctrl+C to stop." in (text := log.read_text()):
            return text.partition("Base URL  ")[2].partition("/v1")[0]
        time.sleep(0.05)  # noqa: TID251 - no event loop is here
    print(log.read_text(), file=sys.stderr)
    return ""


def checked(command: str, url: str, folder: str) -> int:
    options = ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", "30"]
    options += ["--generation-deterministic", "--request-timeout", "20", "--continue-on-failure", "--warnings", "off"]
    return subprocess.run([command, "run", f"{url}/openapi.json", *options], cwd=folder).returncode
