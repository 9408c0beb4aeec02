"""Whether an attempt is a batch, or is asked row by row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("tier", sa.String(), nullable=False, server_default="batch", comment="batch, or realtime")
    op.add_column("attempt", column)
