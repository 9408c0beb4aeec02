"""Ending plans, asking again what was given up, and removing what killed runs left."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "attempt",
        sa.Column(
            "unwanted_at",
            sa.Float(),
            nullable=True,
            comment="since when its batch is to be cancelled, unless an open plan waits for it",
        ),
    )
    op.create_table(
        "retry",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("task", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Float(), nullable=False, comment="failures of answers files up to then don't count"),
        sa.Column("keys", sa.Integer(), nullable=False, comment="requests that were given up at that moment"),
        sa.ForeignKeyConstraint(["task"], ["task.hash"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("retry_by_task", "retry", ["task"], unique=False)
    op.create_table(
        "forgotten",
        sa.Column("plan", sa.String(), nullable=False, comment="its files were removed before the ledger knew it"),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("plan"),
    )
