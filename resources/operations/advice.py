"""What to do about an incident, by its kind."""

from __future__ import annotations

from collections.abc import Mapping

ADVICE: Mapping[str, str] = {
    "duplicate": "Nothing is lost, but the provider may charge for both. Look for a proxy or gateway that repeats POST "
    "requests, and stop that; ask the provider for the money back, naming the batch.",
    "late arrival": "Nothing is lost. If its message says that it is paid beside another batch, the provider acted "
    "later than 30 minutes after the create: tell it, naming the batch, and ask for the money back.",
    "foreign results": "Something between you and the provider mixes replies up: look for a proxy or gateway, and "
    "stop using it. The batch that was created in truth is looked for by itself.",
    "results gone": "They were paid and can't be had any more. Look in the provider's console whether it still has "
    "them, and how long it keeps results; to ask, and pay, these rows anew: dagster-batch-llm retry TABLE.",
    "another account": "Its requests aren't asked again while it is so. Put the old key back, and the batch is found, "
    "if there is one. If that can't be, look for the batch in the provider's console, and end the table's plan: "
    "dagster-batch-llm cancel TABLE --batches. What materializes after that asks, and pays, these rows anew.",
    "unknown rows": "The batch's result file has lines of somebody else. Nothing of them was used. Ask the provider, "
    "and look whether another program writes into the same account's files.",
    "unreadable lines": "Rows of these lines that have no answer are asked again, up to max_attempts. Look at the "
    "files that the message names: if the provider writes them so, tell it, naming the batch; if the disk is bad, "
    "look after that.",
    "limit refused": "The answers are longer than the provider or model allows at once. Ask for shorter ones in the "
    "prompt, or use a model with a higher output limit; the rows are in the table with the status truncated.",
    "tick": "The sensor skips this run's tables until the cause is mended. Read the message; if a definition was "
    "changed or removed, bring it back, or end the plans: dagster-batch-llm cancel TABLE.",
    "unreachable plan": "Bring the asset or partition back, and its plan goes on; or materialize it under its new "
    "name, which asks nothing again, and end the old plan: dagster-batch-llm cancel PLAN.",
    "collect runs fail": "Open the named run in Dagster's UI and mend what it says; the next try is made by itself, "
    "after an hour at the latest.",
    "silent run": "If its process is gone, as after a power cut, end it in Dagster's UI and materialize the table "
    "again; nothing that is answered is asked again. Else a day of silence is waited for.",
    "results expire": "Its results are paid and not fetched. Look why no run collects them (status says what it waits "
    "for), and run the table again before they are deleted.",
    "stuck batch": "The provider should have ended it by now. Look for the batch in the provider's console and ask "
    "there. Its requests aren't asked again while it is out; to have it cancelled and stop waiting: "
    "dagster-batch-llm cancel TABLE --batches.",
}
"""One line per kind of incident that this package records."""


def advice(kind: str) -> str:
    """What to do about an incident of this kind."""
    return ADVICE.get(kind, "Written by another version of dagster-batch-llm; read its message.")
