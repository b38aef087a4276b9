"""openapi.json is what the control plane's app generates; a stale one fails here."""

import json
import subprocess
import sys

from tests.harness import ROOT


def generated() -> str:
    """What `make openapi` writes."""
    done = subprocess.run(
        [sys.executable, "-m", "control.openapi"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_openapi_json_is_what_the_app_generates() -> None:
    assert (ROOT / "openapi.json").read_text() == generated(), "run `make openapi`"


def test_openapi_describes_admin_api_and_token_endpoint_with_unique_operation_ids() -> None:
    document = json.loads((ROOT / "openapi.json").read_text())
    assert document["info"]["title"] == "Narthex"
    paths = document["paths"]
    for path in ("/services", "/routes", "/consumers", "/plugins", "/narthex/config/apply"):
        assert path in paths
    assert any(path.endswith("/oauth2/token") for path in paths)
    ids = [
        operation["operationId"]
        for path in paths.values()
        for operation in path.values()
        if isinstance(operation, dict) and "operationId" in operation
    ]
    assert len(ids) == len(set(ids)) > 40
