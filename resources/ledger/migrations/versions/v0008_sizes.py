"""How many bytes of requests an attempt has: providers limit how much may wait in their queues."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "of its requests; 0 where it isn't known"
    op.add_column("attempt", sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0", comment=comment))
