"""Output limits that grow when an answer was cut off, and answers whose tokens are unknown."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "attempt",
        sa.Column(
            "limit_factor", sa.Integer(), server_default="1", nullable=False, comment="times the task's output limit"
        ),
    )
    op.add_column(
        "attempt", sa.Column("gone_since", sa.Float(), comment="when a batch or result file was first not found")
    )
    op.add_column(
        "answers",
        sa.Column(
            "unmetered", sa.Integer(), server_default="0", nullable=False, comment="answered, and no word about tokens"
        ),
    )
