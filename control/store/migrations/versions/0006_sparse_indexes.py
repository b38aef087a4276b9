"""Indexes of what few tokens have hold those tokens alone: an issued one pays for none of them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TOKENS = "oauth2_tokens"
_SPARSE = ("service_id", "gone_at", "family_id")
_BY_HAND = "ix_oauth2_tokens_by_hand"


def upgrade() -> None:
    for column in _SPARSE:
        op.drop_index(f"ix_{_TOKENS}_{column}", _TOKENS)
        there = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"ix_{_TOKENS}_{column}",
            _TOKENS,
            [column],
            sqlite_where=there,
            postgresql_where=there,
        )
    op.drop_index(_BY_HAND, _TOKENS)
    op.create_index(
        _BY_HAND,
        _TOKENS,
        ["access_token_digest"],
        sqlite_where=sa.text("by_hand = 1"),
        postgresql_where=sa.text("by_hand"),
    )


def downgrade() -> None:
    op.drop_index(_BY_HAND, _TOKENS)
    op.create_index(_BY_HAND, _TOKENS, ["by_hand"])
    for column in _SPARSE:
        op.drop_index(f"ix_{_TOKENS}_{column}", _TOKENS)
        op.create_index(f"ix_{_TOKENS}_{column}", _TOKENS, [column])
