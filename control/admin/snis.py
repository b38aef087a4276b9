"""SNIs: the server names for which listeners show a certificate.  spec/admin-api.md §2."""

from control.admin.names import check_sni
from control.admin.resource import Resource
from control.admin.schema import Field, Schema, foreign, identity, tags_field, timestamp
from control.store import rows
from control.store.rows import Row
from control.store.session import WriteSession
from control.store.tables import SNI, Certificate

SCHEMA = Schema(
    "snis",
    {
        "id": identity(),
        "created_at": timestamp(),
        "updated_at": timestamp(),
        "name": Field(type="string", required=True, unique=True, check=check_sni),
        "certificate": foreign("certificates", required=True, from_below=False),
        "tags": tags_field(),
    },
)


class SNIs(Resource):
    name = path = "snis"
    title = "SNI"
    model = SNI
    schema = SCHEMA
    endpoint_key = "name"

    def written(self, session: WriteSession, row: Row, previous: Row | None) -> None:
        owners = {row["certificate_id"]} | (set() if previous is None else {_owner(previous)})
        for owner in sorted(owners):
            _keep_names(session, owner, gone=None)

    def deleting(self, session: WriteSession, row: Row) -> None:
        _keep_names(session, _owner(row), gone=row["name"])


def _owner(row: Row) -> str:
    owner: str = row["certificate_id"]
    return owner


def _keep_names(session: WriteSession, certificate_id: str, gone: str | None) -> None:
    """Bring a certificate's own list of names up to date."""
    certificate = rows.fetch(session, Certificate, {"id": certificate_id})
    found = rows.column_values(session, SNI, "name", {"certificate_id": certificate_id})
    names = sorted(name for name in found if name != gone)
    if certificate is not None and certificate["snis"] != names:
        rows.update_row(session, Certificate, {"snis": names}, certificate)
