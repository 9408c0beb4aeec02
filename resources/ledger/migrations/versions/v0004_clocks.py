"""The provider's clock at each send: ours may be set right afterwards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("send", sa.Column("there", sa.Float(), comment="t0 by the provider's clock; NULL if it didn't say"))
