"""Since when looks have run out of time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("slow_since", sa.Float(), comment="since when looks in a tick run out of time"))
