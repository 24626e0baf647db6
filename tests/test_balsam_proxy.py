"""The proxy spoils what it is told to, and nothing else."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from .balsam_service import proxy as faults
from .balsam_service.proxy import Proxy
from .balsam_service.service import Service


@pytest.fixture
def client(balsam_service: Service, proxy: Proxy) -> httpx.Client:
    return balsam_service.client(proxy.url)


def test_it_passes_on(client: httpx.Client, proxy: Proxy) -> None:
    for _ in range(3):
        assert client.get("/sites/", params={"limit": 5}).json()["count"] >= 0
    assert [request.path for request in proxy.requests] == ["/sites/"] * 3
    assert proxy.requests[0].query == [("limit", "5")]
    assert client.get("/sites/999999").status_code == 404
    assert client.post("/jobs/", json=[{}]).status_code == 422
    assert (proxy.spoilt, proxy.sent > 0) == (0, True)


@pytest.mark.parametrize("fault", [faults.reset, faults.lost, faults.cut], ids=lambda fault: fault.__name__)
def test_connections_break(client: httpx.Client, proxy: Proxy, fault: faults.Fault) -> None:
    with proxy.spoil(faults.every(2, fault)):
        assert client.get("/auth/how").is_success
        with pytest.raises(httpx.TransportError):
            client.get("/auth/how")
        assert client.get("/auth/how").is_success
    assert proxy.spoilt == 1


def test_answers_are_spoilt(client: httpx.Client, proxy: Proxy) -> None:
    with proxy.spoil(faults.first(1, faults.truncated)), pytest.raises(json.JSONDecodeError):
        client.get("/sites/").json()
    with proxy.spoil(faults.every(1, faults.answers(503), path="/sites")):
        assert client.get("/sites/").status_code == 503
        assert client.get("/auth/how").status_code == 200
    with proxy.spoil(faults.every(1, faults.edited(lambda found: {**found, "count": 7}))):
        assert client.get("/sites/").json()["count"] == 7
    began = time.monotonic()
    with proxy.spoil(faults.first(1, faults.late(0.3))):
        assert client.get("/sites/").is_success
    assert time.monotonic() - began >= 0.3


def test_what_is_lost_is_carried_out_and_what_is_reset_is_not(
    client: httpx.Client, proxy: Proxy, balsam_service: Service
) -> None:
    for fault, there in ((faults.reset, 0), (faults.lost, 1)):
        name = f"by-{fault.__name__}"
        with proxy.spoil(faults.first(1, fault, "POST")), pytest.raises(httpx.TransportError):
            client.post("/sites/", json={"name": name, "path": "/tmp"})
        found = client.get("/sites/", params={"name": name}).json()["results"]
        assert len([site for site in found if site["name"] == name]) == there
        for site in found:
            client.delete(f"/sites/{site['id']}")
