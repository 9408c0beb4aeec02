"""``make live PROVIDER=openai``: ask a real provider five rows, with a key of yours, for less than a cent.

The price is shown before anything is paid. What is asked goes the way of every table; then the batch is looked at, and
each thing that is believed of this provider is said to be so or not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from decimal import Decimal

from .services import SERVICES
from .smoke import TEXTS, ask, price

_MOST = Decimal("0.01")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make live", description=__doc__)
    parser.add_argument("provider", choices=SERVICES)
    parser.add_argument("--model", default="", help="instead of the cheapest one that is known here")
    parser.add_argument("--yes", action="store_true", help="don't ask before it is paid")
    args = parser.parse_args()
    service = SERVICES[args.provider]
    model = args.model or service.model
    if missing := service.missing():
        parser.error(f"set {' and '.join(missing)} in the environment")
    if not model:
        parser.error(f"{args.provider} has no model that everybody has; name one with MODEL=…")
    cost = price(service.priced_as, model, embeds=service.embeds)
    known = f"at most ${cost:f} at realtime list price" if cost is not None else "of unknown price"
    print(f"{args.provider}: {len(TEXTS)} rows of {model}, {known}.")
    if cost is not None and cost > _MOST:
        parser.error(f"that may cost more than ${_MOST}; name a cheaper model with MODEL=…")
    if not args.yes and input("Ask them? [y/N] ").strip().lower() != "y":
        print("Nothing was asked.")
        return 1
    with tempfile.TemporaryDirectory(prefix="batch-llm-live-") as home:
        os.environ["BATCH_LLM_HOME"] = home
        findings = list(ask(service.resource(os.environ), model, embeds=service.embeds))
    for finding in findings:
        print(f"{'yes' if finding.is_so else 'NO ':3}  {finding.about}: {finding.seen}")
    return 0 if all(finding.is_so for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
