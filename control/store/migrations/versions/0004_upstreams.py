"""Upstreams and their targets."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TEXTS = (
    "hash_on_header",
    "hash_fallback_header",
    "hash_on_cookie",
    "hash_on_query_arg",
    "hash_fallback_query_arg",
    "hash_on_uri_capture",
    "hash_fallback_uri_capture",
    "host_header",
)


def upgrade() -> None:
    op.create_table(
        "upstreams",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("algorithm", sa.String(), nullable=False),
        sa.Column("hash_on", sa.String(), nullable=False),
        sa.Column("hash_fallback", sa.String(), nullable=False),
        sa.Column("hash_on_cookie_path", sa.String(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=True) for name in _TEXTS),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("healthchecks", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("client_certificate_id", sa.String(length=36), nullable=True),
        sa.Column("use_srv_name", sa.Boolean(), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_upstreams"),
        sa.UniqueConstraint("name", name="uq_upstreams_name"),
    )
    op.create_table(
        "targets",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("upstream_id", sa.String(length=36), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("down", sa.Boolean(), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upstream_id"],
            ["upstreams.id"],
            name="fk_targets_upstream_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_targets"),
        sa.UniqueConstraint("upstream_id", "target", name="uq_targets_upstream_id_target"),
    )
    op.create_index("ix_targets_upstream_id", "targets", ["upstream_id"])


def downgrade() -> None:
    op.drop_table("targets")
    op.drop_table("upstreams")
