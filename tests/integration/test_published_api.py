"""The published OpenAPI holds: generated requests, good and bad, against a real socket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup, ServerError
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from belvedere.testing import FakeEngine
from tests.integration.scripted import gateway_for

KEY = "published-key-1"


def no_failure_of_the_server(_: Any, response: Any, case: Any) -> None:
    """501 says that this engine cannot do it: the scripted one can do little."""
    if response.status_code >= 500 and response.status_code != 501:
        raise ServerError(
            operation=case.operation.label, title="Server error", status_code=response.status_code
        )


CHECKS = [
    no_failure_of_the_server,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


EXAMPLES = int(os.environ.get("PUBLISHED_EXAMPLES", "15"))


@pytest.fixture(scope="module")
def published() -> Iterator[Any]:
    with FakeEngine() as engine, gateway_for(engine, api_key=KEY) as client:
        yield schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_generated_requests_meet_the_published_api(published: Any, mode: GenerationMode) -> None:
    problems = []
    for found in published.get_all_operations():
        operation = found.ok()
        try:
            _exercise(operation.as_strategy(generation_mode=mode))
        except (FailureGroup, Failure) as exc:
            problems.append(f"{operation.label}: {exc}")
        except Unsatisfiable:
            continue
    assert not problems, "\n".join(problems)


def _exercise(cases: Any) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def check(case: Any) -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        case.call_and_validate(checks=CHECKS, headers=headers, timeout=60)

    check()
