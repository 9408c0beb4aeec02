"""`make browser`: Chromium by apt-get, or what to do where there is none; in any case it has to start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from .chromium import NAMES, VARIABLE, chromium, executable

_BY_HAND = f"""\
Chromium is not installed, and this system has no apt-get. Install Chromium or Google Chrome as you do here, and if it
isn't on the PATH as {", ".join(NAMES[:-1])} or {NAMES[-1]}, name its executable in {VARIABLE}."""


def main() -> None:
    """Install it if need be, and say which one there is."""
    if executable() is None:
        _install()
    with chromium(width=800, height=600) as page:
        browser = page.context.browser
        print(f"browser: {executable()} {browser.version if browser else ''} starts")


def _install() -> None:
    if os.environ.get(VARIABLE):
        sys.exit(f"{VARIABLE} is {os.environ[VARIABLE]!r}, which can't be run. Correct it, or unset it.")
    if shutil.which("apt-get") is None:
        sys.exit(_BY_HAND)
    print("browser: installing the package chromium by apt-get", flush=True)
    root = [] if os.geteuid() == 0 else ["sudo"]
    environment = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    try:
        subprocess.run([*environment, "update"], check=True)
        install = [*environment, "install", "-y", "--no-install-recommends", "chromium"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"browser: apt-get did not install chromium ({error}). Install it by hand, or name one in {VARIABLE}.")


if __name__ == "__main__":
    main()
