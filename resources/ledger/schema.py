"""The ledger's tables: what was asked, by whom, and where it stands. Times are Unix seconds, UTC."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = "0008"
"""The newest alembic revision; a test compares it with the migrations folder."""

metadata = MetaData()

_TOKENS = Integer().with_variant(BigInteger(), "postgresql")
"""A large batch has more than 2^31 of them; SQLite's integers have 64 bits anyway."""

ledger = Table(
    "ledger",
    metadata,
    Column("id", String, primary_key=True, comment="bound to the answers store that belongs to it"),
    Column("created_at", Float, nullable=False),
)

task = Table(
    "task",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("spec", Text, nullable=False, comment="RequestSpec as canonical JSON"),
    Column("fence", Integer, nullable=False, default=0, comment="moves with every insert of attempts"),
    Column("owner", String),
    Column("lease_until", Float, nullable=False, default=0.0),
)

plan = Table(
    "plan",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("state", String, nullable=False),
    Column("asset", String, nullable=False),
    Column("partitions", Text, nullable=False, comment="JSON list; empty for an unpartitioned asset"),
    Column("task", String(64), ForeignKey("task.hash"), nullable=False),
    Column("llm", String, nullable=False, comment="resource key of the provider"),
    Column("spec", Text, nullable=False, comment="TaskSpec as JSON: how answers become a table"),
    Column("code_version", String, nullable=False),
    Column("inputs", Text, nullable=False, comment="JSON: Dagster's input version tags when it was planned"),
    Column("origin", String, nullable=False, comment="the run that started it all; collect runs share it"),
    Column("run", String, nullable=False, comment="the run that planned it"),
    Column("location", String, comment="code location; NULL where no sensor can come back"),
    Column("backfill", String),
    Column("holder", String, comment="the run that is working on it now"),
    Column("holder_until", Float, nullable=False, default=0.0),
    Column("rows", Integer, nullable=False),
    Column("keys", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False, server_default="3", comment="unusable answers that end a row"),
    Column("asked", Integer, nullable=False, default=0, comment="requests this plan put into attempts"),
    Column("created_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("message", Text),
)
Index("plan_by_asset", plan.c.asset, plan.c.state)
Index("plan_by_origin", plan.c.origin)

origin = Table(
    "origin",
    metadata,
    Column("id", String, primary_key=True, comment="run id"),
    Column("selection", Text, nullable=False, comment="JSON: the asset keys that the run had selected"),
    Column(
        "tags",
        Text,
        nullable=False,
        comment="JSON: tags that its collect runs carry on (partition, backfill)",
    ),
    Column("generation", Integer, nullable=False, default=0, comment="which collect run is the current one"),
    Column("failures", Integer, nullable=False, default=0),
    Column("due", Float, nullable=False, default=0.0),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("task", String(64), ForeignKey("task.hash"), nullable=False),
    Column("plan", String, ForeignKey("plan.id"), nullable=False, comment="the plan that asked first"),
    Column("llm", String, nullable=False),
    Column("account", String, nullable=False),
    Column("manifest", Text, nullable=False, comment="Parquet of (row, key), relative to the home folder"),
    Column("rows", Integer, nullable=False),
    Column("fence", Integer, nullable=False, default=0),
    Column("owner", String),
    Column("lease_until", Float, nullable=False, default=0.0),
    Column("due", Float, nullable=False, default=0.0, comment="next look at the provider, or next try to send"),
    Column("waits", Integer, nullable=False, default=0, comment="looks or refusals in a row; sets the back-off"),
    Column("send_no", Integer, nullable=False, default=0),
    Column("file_id", String),
    Column("revoked_at", Float),
    Column("batch_id", String),
    Column("phase", String),
    Column("total", Integer, nullable=False, default=0),
    Column("completed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("expires_at", Float),
    Column("ended_at", Float, comment="the provider is through with it"),
    Column("created_at", Float, nullable=False),
    Column("submitted_at", Float),
    Column("closed_at", Float),
    Column("message", Text),
    Column("unwanted_at", Float, comment="since when its batch is to be cancelled, unless an open plan waits for it"),
    Column("gone_since", Float, comment="when a batch or result file was first not found"),
    Column("wire", String, nullable=False, server_default="openai", comment="how requests and results are written"),
    Column("slow_since", Float, comment="since when looks in a tick run out of time"),
    Column("limit_factor", Integer, nullable=False, server_default="1", comment="times the task's output limit"),
    Column("tier", String, nullable=False, server_default="batch", comment="batch, or realtime"),
    Column("bytes", BigInteger, nullable=False, server_default="0", comment="of its requests; 0 where it isn't known"),
)
Index("attempt_by_task", attempt.c.task, attempt.c.state)
Index("attempt_by_state", attempt.c.state, attempt.c.due)

plan_attempt = Table(
    "plan_attempt",
    metadata,
    Column("plan", String, ForeignKey("plan.id"), primary_key=True),
    Column("attempt", String, ForeignKey("attempt.id"), primary_key=True),
    comment="which attempts hold keys that a plan waits for",
)

send = Table(
    "send",
    metadata,
    Column(
        "token",
        String,
        primary_key=True,
        comment="in custom_ids, file name and metadata: how a create is found",
    ),
    Column("attempt", String, ForeignKey("attempt.id"), nullable=False),
    Column("n", Integer, nullable=False),
    Column("t0", Float, nullable=False),
    Column("send_deadline", Float, nullable=False, comment="after this it must not be sent any more"),
    Column("file_id", String, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("there", Float, comment="t0 by the provider's clock; NULL if it didn't say"),
    UniqueConstraint("attempt", "n"),
)

link = Table(
    "link",
    metadata,
    Column("account", String, primary_key=True),
    Column("batch_id", String, primary_key=True),
    Column("attempt", String, ForeignKey("attempt.id"), nullable=False),
    Column("token", String, ForeignKey("send.token"), nullable=False),
    Column("extra", Boolean, nullable=False, comment="a duplicate: paid, collected, and recorded as an incident"),
    Column("linked_at", Float, nullable=False),
)

answers = Table(
    "answers",
    metadata,
    Column("file", Text, primary_key=True, comment="immutable Parquet, relative to the answers folder"),
    Column("task", String(64), ForeignKey("task.hash"), nullable=False),
    Column("attempt", String, ForeignKey("attempt.id"), nullable=False),
    Column("outcomes", Text, nullable=False, comment="JSON: rows per outcome; they add up to the rows sent"),
    Column("input_tokens", _TOKENS, nullable=False),
    Column("output_tokens", _TOKENS, nullable=False),
    Column("unmetered", Integer, nullable=False, server_default="0", comment="answered, and no word about tokens"),
    Column("at", Float, nullable=False),
)
Index("answers_by_task", answers.c.task)

retry = Table(
    "retry",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("task", String(64), ForeignKey("task.hash"), nullable=False),
    Column("at", Float, nullable=False, comment="failures of answers files up to then don't count"),
    Column("keys", Integer, nullable=False, comment="requests that were given up at that moment"),
)
Index("retry_by_task", retry.c.task)

forgotten = Table(
    "forgotten",
    metadata,
    Column("plan", String, primary_key=True, comment="its files were removed before the ledger knew it"),
    Column("at", Float, nullable=False),
)

incident = Table(
    "incident",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False, comment="the plan, attempt or batch"),
    Column("message", Text, nullable=False),
    UniqueConstraint("kind", "subject"),
)

keeper = Table(
    "keeper",
    metadata,
    Column("backfill", String, primary_key=True),
    Column("run", String, nullable=False),
    Column("lease_until", Float, nullable=False),
)
