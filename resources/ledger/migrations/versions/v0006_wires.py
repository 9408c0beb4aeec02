"""How an attempt's requests and results are written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column(
        "wire", sa.String(), nullable=False, server_default="openai", comment="how requests and results are written"
    )
    op.add_column("attempt", column)
