"""Since when looks have run out of time, and how often a plan's requests are tried."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("slow_since", sa.Float(), comment="since when looks in a tick run out of time"))
    tries = sa.Column(
        "max_attempts",
        sa.Integer(),
        nullable=False,
        server_default="3",
        comment="unusable answers that end a row",
    )
    op.add_column("plan", tries)
