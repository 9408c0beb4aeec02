"""All providers, in the order in which people are shown them."""

from __future__ import annotations

from .anthropic import ANTHROPIC
from .compatible import COMPATIBLE
from .doubleword import DOUBLEWORD
from .local import LOCAL
from .openai import OPENAI
from .profile import Profile

PROFILES: tuple[Profile, ...] = (OPENAI, ANTHROPIC, DOUBLEWORD, COMPATIBLE, LOCAL)
