"""The service that other tests use: it is real, and nothing of it outlives them."""

from __future__ import annotations


def test_it_answers(balsam_service):
    with balsam_service.client() as client:
        assert client.get("/auth/how").json() == ["LoginMethod.password"]


def test_local(balsam_site):
    assert balsam_site.record()["allowed_queues"].keys() == {"local"}


def test_slurm(slurm_site):
    assert slurm_site.record()["allowed_projects"] == ["physics"]
    assert slurm_site.slurm.queue() == []
