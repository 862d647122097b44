"""Models, engines and upstreams as ``/health`` and ``/api/v1/inference/status`` show them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from belvedere.engines.base import EngineStatus
from belvedere.gateway.deployment import Deployment
from belvedere.gateway.reconcile import memory_view
from belvedere.gateway.state import Gateway
from belvedere.router.replica import Replica

__all__ = ["failure_views", "model_views", "replica_view", "service_state", "upstream_views"]

_SERVING = frozenset({"ready", "asleep"})
"""States of a replica that a request can have: the next one wakes it where it sleeps."""


def service_state(gateway: Gateway) -> str:
    """``ok``, or what is wrong with the service as a whole.

    ``degraded``: requests of some model or replica cannot be served; ``starting``: none can yet;
    ``empty``: no model is loaded; ``unavailable``: no engine is up or coming.
    """
    replicas = gateway.router.replicas
    states = {replica.state() for replica in replicas}
    if not states:
        return _state_without_engines(gateway)
    if states <= _SERVING:
        return "ok"
    if states & _SERVING:
        return "degraded"
    return "starting" if {"starting", "backoff"} & states else "unavailable"


def _state_without_engines(gateway: Gateway) -> str:
    """Empty is only who was told to be: nothing is on its way, and no upstream is silent."""
    upstreams = {upstream.state for upstream in gateway.upstreams()}
    if "starting" in upstreams or (gateway.host is not None and gateway.host.is_loading):
        return "starting"
    return "unavailable" if upstreams - {"ready"} else "empty"


def replica_view(gateway: Gateway, replica: Replica) -> dict[str, Any]:
    """One engine or upstream model; no path, key or log line."""
    status = gateway.engine_statuses().get(replica.name)
    view: dict[str, Any] = {
        "name": replica.name,
        "model": replica.model.name,
        "state": replica.state(),
        "in_flight": replica.in_flight,
        "remote": replica.remote,
    }
    if status is None:
        return view
    return {
        **view,
        "phase": "draining" if _is_about_to_sleep(replica, status) else status.phase,
        "sleep_level": status.sleep_level,
        "start_s": status.elapsed_s,
        "phase_s": dict(status.phase_s),
        "launches": status.launch,
        "crashes": status.crashes,
        "retry_in_s": status.retry_in_s,
        "error": status.error,
        "remaining_s": status.remaining_s,
        "report": memory_view(gateway.host.mirror.labels(replica.name), status)
        if gateway.host
        else None,
    }


def _is_about_to_sleep(replica: Replica, status: EngineStatus) -> bool:
    return replica.state() == "asleep" and status.state == "ready"


def model_views(gateway: Gateway) -> list[dict[str, Any]]:
    """The models that are loaded here, oldest first, each with its engines."""
    host = gateway.host
    return [_model_view(gateway, entry) for entry in host.mirror.deployments] if host else []


def _model_view(gateway: Gateway, deployment: Deployment) -> dict[str, Any]:
    replicas = [
        replica for replica in gateway.router.replicas if replica.model.deployment == deployment.id
    ]
    states = {replica.state() for replica in replicas}
    statuses = gateway.engine_statuses()
    phases = {statuses[one.name].phase for one in replicas if one.name in statuses}
    aliases = gateway.router.aliases.items()
    return {
        "model": deployment.name,
        "aliases": sorted(alias for alias, target in aliases if target == deployment.name),
        "model_path": deployment.source,
        "is_loaded": bool(states & _SERVING),
        "is_asleep": bool(phases) and phases == {"asleep"},
        "created": int(deployment.created_s),
        "idle_unload_s": deployment.idle_unload_s,
        "sleep_mode": deployment.sleep_mode,
        "idle_sleep_s": deployment.idle_sleep_s,
        "replicas": [replica_view(gateway, replica) for replica in replicas],
    }


def failure_views(gateway: Gateway) -> list[dict[str, Any]]:
    """Loads that came to nothing, for those who did not wait for them."""
    return [
        {
            "model": failure.model,
            "model_path": failure.source,
            "error": failure.error,
            "timestamp": datetime.fromtimestamp(failure.failed_s, UTC).isoformat("T", "seconds"),
        }
        for failure in (gateway.host.failures if gateway.host else ())
    ]


def upstream_views(gateway: Gateway) -> list[dict[str, Any]]:
    """The servers of ``--upstream``."""
    return [asdict(status) for status in gateway.upstreams()]
