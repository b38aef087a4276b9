"""OAuth 2.0 in full: codes, families, signing keys, tickets, assertions."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TOKENS = "oauth2_tokens"
_EXPIRY = "ix_oauth2_tokens_expiry"
_CODES = "oauth2_authorization_codes"
_SPENT = "oauth2_spent_refresh_tokens"


def upgrade() -> None:
    with op.batch_alter_table(_TOKENS) as table:
        table.add_column(sa.Column("plugin_id", sa.String(length=36), nullable=True))
        table.add_column(sa.Column("family_id", sa.String(length=36), nullable=True))
        table.add_column(sa.Column("audience", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(
            sa.Column("is_jwt", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        table.create_foreign_key(
            "fk_oauth2_tokens_plugin_id", "plugins", ["plugin_id"], ["id"], ondelete="CASCADE"
        )
        table.create_index("ix_oauth2_tokens_plugin_id", ["plugin_id"])
        table.create_index("ix_oauth2_tokens_family_id", ["family_id"])
    ends_with_access = sa.text(
        "NOT (refresh_token_digest IS NOT NULL) AND expires_in > 0 AND NOT by_hand"
    )
    op.create_index(
        _EXPIRY,
        _TOKENS,
        [sa.text("(created_at + expires_in)")],
        sqlite_where=ends_with_access,
        postgresql_where=ends_with_access,
    )
    with op.batch_alter_table("revocations") as table:
        table.add_column(sa.Column("version", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("successor", sa.LargeBinary(length=32), nullable=True))
    _create_codes()
    _create_spent()
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(), nullable=False),
        sa.Column("alg", sa.String(), nullable=False),
        sa.Column("private_pem", sa.LargeBinary(), nullable=False),
        sa.Column("public_jwk", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("active_at", sa.Float(), nullable=False),
        sa.Column("retired_at", sa.Float(), nullable=True),
        sa.Column("gone_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("kid", name="pk_signing_keys"),
    )
    op.create_index("ix_signing_keys_gone_at", "signing_keys", ["gone_at"])
    op.create_table(
        "oauth2_tickets",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("token_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=True),
        sa.Column("issuer", sa.String(), nullable=True),
        sa.Column("kid", sa.String(), nullable=True),
        sa.Column("audience", sa.JSON(), nullable=True),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_oauth2_tickets"),
    )
    op.create_index("ix_oauth2_tickets_expires_at", "oauth2_tickets", ["expires_at"])
    op.create_table(
        "oauth2_seen_assertions",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_oauth2_seen_assertions"),
    )
    op.create_index(
        "ix_oauth2_seen_assertions_expires_at", "oauth2_seen_assertions", ["expires_at"]
    )


def _create_codes() -> None:
    op.create_table(
        _CODES,
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("credential_id", sa.String(length=36), nullable=False),
        sa.Column("service_id", sa.String(length=36), nullable=True),
        sa.Column("plugin_id", sa.String(length=36), nullable=True),
        sa.Column("code_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("authenticated_userid", sa.String(), nullable=True),
        sa.Column("scope", sa.String(), nullable=True),
        sa.Column("challenge", sa.String(), nullable=True),
        sa.Column("challenge_method", sa.String(), nullable=True),
        sa.Column("redirect_uri", sa.String(), nullable=True),
        sa.Column("audience", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["credential_id"],
            ["oauth2_credentials.id"],
            name="fk_oauth2_authorization_codes_credential_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["service_id"],
            ["services.id"],
            name="fk_oauth2_authorization_codes_service_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["plugin_id"],
            ["plugins.id"],
            name="fk_oauth2_authorization_codes_plugin_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_oauth2_authorization_codes"),
        sa.UniqueConstraint("code_digest", name="uq_oauth2_authorization_codes_code_digest"),
    )
    for column in ("credential_id", "service_id", "plugin_id", "expires_at"):
        op.create_index(f"ix_{_CODES}_{column}", _CODES, [column])


def _create_spent() -> None:
    op.create_table(
        _SPENT,
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("credential_id", sa.String(length=36), nullable=False),
        sa.Column("family_id", sa.String(length=36), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("spent_at", sa.Float(), nullable=False),
        sa.Column("gone_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["credential_id"],
            ["oauth2_credentials.id"],
            name="fk_oauth2_spent_refresh_tokens_credential_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("digest", name="pk_oauth2_spent_refresh_tokens"),
    )
    for column in ("credential_id", "family_id", "gone_at"):
        op.create_index(f"ix_{_SPENT}_{column}", _SPENT, [column])
    has_answer = sa.text("answer IS NOT NULL")
    op.create_index(
        f"ix_{_SPENT}_answered",
        _SPENT,
        ["spent_at"],
        sqlite_where=has_answer,
        postgresql_where=has_answer,
    )


def downgrade() -> None:
    for table in ("oauth2_seen_assertions", "oauth2_tickets", "signing_keys", _SPENT, _CODES):
        op.drop_table(table)
    op.drop_index(_EXPIRY, _TOKENS)
    with op.batch_alter_table("revocations") as batch:
        batch.drop_column("successor")
        batch.drop_column("version")
    with op.batch_alter_table(_TOKENS) as batch:
        batch.drop_index("ix_oauth2_tokens_family_id")
        batch.drop_index("ix_oauth2_tokens_plugin_id")
        batch.drop_constraint("fk_oauth2_tokens_plugin_id", type_="foreignkey")
        for column in ("is_jwt", "audience", "family_id", "plugin_id"):
            batch.drop_column(column)
