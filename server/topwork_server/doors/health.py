"""GET /health/live and /health/ready, for load balancers and orchestrators."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from topwork_server.doors import http_errors
from topwork_server.doors.json_calls import DoorRoute
from topwork_server.services.health import HealthService


def health_routes(health: HealthService, default_encoder: str) -> list[Route]:
    """Return the routes; readiness is that of the encoder which the query names, else of the default one."""

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        reason = await health.why_not_ready(request.query_params.get("encoder", default_encoder))
        return JSONResponse({"ready": not reason, "reason": reason}, 503 if reason else 200)

    served = (("/health/live", live), ("/health/ready", ready))
    return [DoorRoute(path, answer, "GET", http_errors.error_form) for path, answer in served]
