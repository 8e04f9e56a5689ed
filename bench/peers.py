"""Install the peer gateways outside of the checkout. `make bench-peers` runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv

from .gateways import PEERS

LITELLM = "litellm[proxy]"
PORTKEY = "@portkey-ai/gateway"


def main() -> int:
    PEERS.mkdir(parents=True, exist_ok=True)
    print(f"installing LiteLLM and Portkey into {PEERS} ...")
    return max(litellm(), portkey())


def litellm() -> int:
    folder = PEERS / "litellm"
    if not folder.exists():
        venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return subprocess.call([*pip, "--upgrade", LITELLM])


def portkey() -> int:
    if not shutil.which("npm"):
        print(
            "Portkey needs Node 18 or newer with npm; on Debian or Ubuntu: apt-get install nodejs npm", file=sys.stderr
        )
        return 1
    folder = PEERS / "portkey"
    folder.mkdir(exist_ok=True)
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    return subprocess.call(["npm", "install", *quiet, "--prefix", str(folder), PORTKEY])


if __name__ == "__main__":
    sys.exit(main())
