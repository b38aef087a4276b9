"""All entities of the Admin API.  A further one is a module of its own and a line here."""

from control.admin.ca_certificates import CACertificates
from control.admin.certificates import Certificates
from control.admin.consumers import Consumers
from control.admin.oauth2_credentials import OAuth2Credentials
from control.admin.oauth2_tokens import OAuth2Tokens
from control.admin.plugins import Plugins
from control.admin.resource import Resource
from control.admin.routes import Routes
from control.admin.schema import Field
from control.admin.services import Services
from control.admin.snis import SNIs
from control.admin.targets import Targets
from control.admin.upstreams import Upstreams

RESOURCES: tuple[Resource, ...] = (
    Services(),
    Routes(),
    Consumers(),
    Plugins(),
    OAuth2Credentials(),
    OAuth2Tokens(),
    Certificates(),
    SNIs(),
    CACertificates(),
    Upstreams(),
    Targets(),
)
BY_NAME = {resource.name: resource for resource in RESOURCES}


def referring_to(parent: Resource) -> list[tuple[Resource, str, Field]]:
    """(child, field name, field) of every reference to this entity."""
    return [
        (child, name, field)
        for child in RESOURCES
        for name, field in child.foreign_fields.items()
        if field.reference == parent.name
    ]
