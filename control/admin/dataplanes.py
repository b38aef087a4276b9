"""`GET /dataplanes`: which data planes there are, and which configuration each runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from control.admin.openapi import Operation

DataPlanes = Callable[[], list[dict[str, Any]]]


class DataPlane(BaseModel):
    """One data plane that has connected since the control plane started."""

    id: str = Field(description="its own, kept over restarts")
    hostname: str
    ip: str
    version: str = Field(description="of Narthex")
    certificate: str | None = Field(description="first name in its certificate")
    connected: bool
    last_seen: int = Field(description="seconds since 1970")
    sync_status: Literal["normal", "pending", "refused", "disconnected"]
    config_version: int = Field(description="that it carries traffic by")
    refused_version: int | None
    refused_reason: str | None = Field(description="why that version does not carry traffic")
    sessions: int = Field(description="WebSockets open")
    handshakes: int = Field(description="since it started")
    uptime: int = Field(description="seconds")


class DataPlanePage(BaseModel):
    data: list[DataPlane]
    next: None = None


def dataplanes_router(dataplanes: DataPlanes) -> APIRouter:
    """`dataplanes` gives the rows; the link's server knows them."""
    router = APIRouter(tags=["dataplanes"])
    errors = Operation("", 200, errors=()).responses()
    del errors[200]

    @router.get("/dataplanes", name="list", summary="All data planes", responses=errors)
    def list_dataplanes() -> DataPlanePage:
        """Those that have connected since the control plane started, and how far each one is."""
        return DataPlanePage(data=[DataPlane(**row) for row in dataplanes()])

    return router
