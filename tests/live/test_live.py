"""The live smoke test, but for the provider: the emulator stands there, and nothing is paid."""

from __future__ import annotations

import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from dagster_batch_llm.assets import convergence
from dagster_batch_llm.resources import BatchResource
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.local.emulator.dialects import DIALECTS
from dagster_batch_llm.resources.providers.profile import Profile

from ..assets.test_one_table_on_every_provider import RESOURCES
from ..resources.emulated import EmulatedServer, rules
from ..resources.served import served
from .__main__ import main
from .services import SERVICES
from .smoke import ask, price


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limited = BatchResource.limited

    def often(self: BatchResource, profile: Profile) -> Profile:
        return replace(limited(self, profile), poll_seconds=(0.01, 0.1))

    monkeypatch.setattr(BatchResource, "limited", often)
    monkeypatch.setattr(convergence, "_STEP_SECONDS", 0.01)
    monkeypatch.setenv("BATCH_LLM_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("speaks", ["openai", "openai-responses", "anthropic", "gemini", "mistral", "voyage"])
def test_all_that_is_believed_of_a_provider_is_so_at_its_emulator(speaks: str, tmp_path: Path) -> None:
    spoken = speaks if speaks in DIALECTS else "openai"
    server = EmulatedServer(tmp_path / "emulator", SystemClock(), rules(speaks=spoken))
    with served(server.handle) as address:
        findings = list(ask(RESOURCES[speaks](address), "m", embeds=SERVICES[speaks].embeds))
    assert [finding for finding in findings if not finding.is_so] == []
    assert len(findings) >= 10
    assert sum(server.bill.values()) == 5


def test_every_known_model_costs_less_than_a_cent() -> None:
    for name, service in SERVICES.items():
        if service.model:
            cost = price(service.priced_as, service.model, embeds=service.embeds)
            assert cost is not None, name
            assert cost < Decimal("0.01"), name


def test_without_a_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(sys, "argv", ["live", "openai", "--yes"])
    with pytest.raises(SystemExit):
        main()
    assert "set OPENAI_API_KEY in the environment" in capsys.readouterr().err


def test_who_does_not_agree_to_the_price_pays_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setattr(sys, "argv", ["live", "openai"])

    def no(_: str) -> str:
        return "n"

    monkeypatch.setattr("builtins.input", no)
    assert main() == 1
    out = capsys.readouterr().out
    assert "5 rows of gpt-5-nano, at most $0.0" in out
    assert "Nothing was asked." in out
