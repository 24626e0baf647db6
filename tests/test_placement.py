"""Where jobs run: Balsam's rules for cores, GPUs, occupancy and whole nodes."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from balsam_jupyter.engines.embedded.launcher.placement import Node, Nodes, Place, environment, idle_nodes, need
from balsam_jupyter.engines.embedded.site import Settings
from balsam_jupyter.models import Resources


def two_nodes(cores: int = 64, gpus: int = 8) -> Nodes:
    ids = [str(i) for i in range(2 * gpus)]
    return Nodes([Node(n, range(n * cores, (n + 1) * cores), ids[n * gpus : (n + 1) * gpus]) for n in range(2)])


def settings(**fields: object) -> Settings:
    return Settings(**{"nodes": 2, "cores_per_node": 64, "gpus_per_node": 8, **fields})  # type: ignore[arg-type]


def concurrent(nodes: Nodes, asked: Resources, **fields: object) -> int:
    """How many jobs of that kind can be placed at a time."""
    what, count = need(asked, settings(**fields)), 0
    while nodes.place(what) is not None:
        count += 1
    return count


def test_balsams_job_placement_examples() -> None:
    # docs/user-guide/jobs.md of Balsam: a 2-node allocation, 64 cores and 8 GPUs per node.
    assert concurrent(two_nodes(), Resources(node_packing_count=8, gpus_per_rank=1)) == 16
    assert concurrent(two_nodes(), Resources(node_packing_count=4, gpus_per_rank=1)) == 8
    assert concurrent(two_nodes(), Resources(node_packing_count=8, gpus_per_rank=8)) == 2


def test_cores_limit_what_packing_would_allow() -> None:
    assert concurrent(two_nodes(), Resources(node_packing_count=64, threads_per_rank=16)) == 8
    assert concurrent(two_nodes(), Resources(node_packing_count=64, ranks_per_node=32, threads_per_core=2)) == 8
    assert concurrent(two_nodes(), Resources(node_packing_count=200)) == 128


def test_the_default_packing_uses_the_node_whole_and_balsams_is_a_setting() -> None:
    assert concurrent(two_nodes(), Resources()) == 128
    assert concurrent(two_nodes(), Resources(threads_per_rank=3)) == 2 * 21
    assert concurrent(two_nodes(), Resources(), node_packing_count=1) == 2
    assert concurrent(two_nodes(), Resources(node_packing_count=64), exclusive_nodes=True) == 2


def test_a_job_of_several_nodes_takes_whole_ones_and_only_empty_ones() -> None:
    nodes = two_nodes()
    small = nodes.place(need(Resources(node_packing_count=64), settings()))
    both = need(Resources(num_nodes=2), settings())
    assert small is not None and nodes.place(both) is None
    nodes.release(small)
    place = nodes.place(both)
    assert place is not None and place.nodes == (0, 1) and len(place.cores) == 128 and place.share == 1
    assert not nodes.fits(need(Resources(node_packing_count=64), settings()))


def test_nodes_are_kept_free_only_where_later_jobs_are_in_the_way() -> None:
    nodes = two_nodes(cores=2, gpus=1)
    gpu, core = (
        need(Resources(gpus_per_rank=1), settings(cores_per_node=2)),
        need(Resources(), settings(cores_per_node=2)),
    )
    held = [nodes.place(gpu) for _ in range(2)]
    assert None not in held and nodes.place(gpu) is None
    nodes.reserve(gpu, 5)  # both GPUs are busy with its own kind: keeping cores free would help nobody
    assert nodes.fits(core)
    nodes.release(held[1])  # type: ignore[arg-type]
    nodes.reserve(gpu, 5)
    assert nodes.fits(core) and not nodes.fits(gpu)
    nodes.reserve_none()
    assert nodes.fits(gpu)


def test_what_a_task_is_told() -> None:
    place = Place((0,), (0, 1), ("2", "5"), Fraction(1, 2))
    assert environment(4, place) == {
        "OMP_NUM_THREADS": "4",
        "CUDA_VISIBLE_DEVICES": "2,5",
        "HIP_VISIBLE_DEVICES": "2,5",
        "ZE_AFFINITY_MASK": "2,5",
    }
    assert environment(1, place._replace(gpus=())) == {"OMP_NUM_THREADS": "1"}
    assert Place.from_json(place.to_json()) == place


def test_nodes_of_a_machine_with_fewer_cores_bind_nothing() -> None:
    nodes = idle_nodes([1, 3], settings(nodes=4, cores_per_node=1000, gpus_per_node=2))
    assert [node.number for node in nodes] == [1, 3] and all(core < 0 for node in nodes for core in node.all_cores)
    assert len({core for node in nodes for core in node.all_cores}) == 2000
    assert [node.all_gpus for node in nodes] == [["2", "3"], ["6", "7"]]


KINDS = st.builds(
    Resources,
    num_nodes=st.integers(1, 3),
    ranks_per_node=st.integers(1, 4),
    threads_per_rank=st.integers(1, 2),
    gpus_per_rank=st.sampled_from([0, 0.5, 1]),
    node_packing_count=st.one_of(st.none(), st.integers(1, 6)),
)


@given(st.lists(st.tuples(KINDS, st.booleans(), st.integers(0, 30)), max_size=40))
def test_nothing_is_given_twice_and_all_comes_back(steps: list[tuple[Resources, bool, int]]) -> None:
    nodes = Nodes([Node(n, range(n * 4, n * 4 + 4), [str(2 * n), str(2 * n + 1)]) for n in range(3)])
    limits = settings(nodes=3, cores_per_node=4, gpus_per_node=2)
    held: list[Place] = []
    for asked, release, which in steps:
        if release and held:
            nodes.release(held.pop(which % len(held)))
            continue
        what = need(asked, limits)
        place = nodes.place(what)
        if place is None:
            continue
        assert nodes.capacity(what) > 0 and len(place.nodes) == asked.num_nodes
        held.append(place)
        for ids in ([c for p in held for c in p.cores], [g for p in held for g in p.gpus]):
            assert len(ids) == len(set(ids))
        for node in nodes.nodes:
            assert sum(p.share for p in held if node.number in p.nodes) == node.occupancy <= 1
    for place in held:
        nodes.release(place)
    assert all(
        node.occupancy == 0 and node.cores == node.all_cores and node.gpus == node.all_gpus for node in nodes.nodes
    )
