"""Postgres' programs on this machine; run as a script, it is `make services`' part for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_BY_HAND = """\
services: Postgres is not installed, and this system has no apt-get or doesn't let you use it. Install the package
postgresql (Debian, Ubuntu) or postgresql-server (Fedora) as you do here; its programs initdb and pg_ctl have to be
on the PATH or below /usr/lib/postgresql. The tests start a server of their own with them; none has to run."""


def programs() -> Path | None:
    """The folder of the newest initdb and pg_ctl."""
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = sorted((path for path in debian if path.parts[-3].isdigit()), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def install() -> None:
    """Debian's package by apt-get, or what to do where there is none."""
    if programs() is None:
        if shutil.which("apt-get") is None or (os.geteuid() != 0 and shutil.which("sudo") is None):
            sys.exit(_BY_HAND)
        print("services: installing the package postgresql by apt-get", flush=True)
        root = [] if os.geteuid() == 0 else ["sudo"]
        apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
        try:
            subprocess.run([*apt, "update"], check=True)
            package = [*apt, "install", "-y", "--no-install-recommends", "postgresql"]
            subprocess.run(package, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"{_BY_HAND}\napt-get said: {error}")
    print(f"services: Postgres is in {programs()}")


if __name__ == "__main__":
    install()
