"""Numbers between 0 and 1 by which the rows of sampled designs are chosen.

Each function gives, for names of parameters, what draws their numbers: always the same for the same seed.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable
from functools import cache, partial
from random import Random
from typing import Any

from ..errors import BadInput, Unsupported

log = logging.getLogger(__name__)

Draw = Callable[[], "array[float]"]

_LEAST, _MOST = 2.0**-54, 1 - 2.0**-53  # 0 and 1 themselves are infinite in many a distribution


def random(n: int, seed: int, names: list[str]) -> list[Draw]:
    """Independent numbers. Each parameter has its own sequence, whatever other parameters there are."""
    return [partial(_random, n, f"random {seed} {name}") for name in names]


def _random(n: int, seed: str) -> array[float]:
    # Of all that Random offers, only seeding by text and random() are promised to stay from version to version.
    draw = Random(seed).random
    return array("d", (draw() or _LEAST for _ in range(n)))


def latin_hypercube(n: int, seed: int, names: list[str]) -> list[Draw]:
    """One number in each of `n` equal parts, in an order of its own for each parameter."""
    return [partial(_stratified, n, f"latin hypercube {seed} {name}") for name in names]


def _stratified(n: int, seed: str) -> array[float]:
    draw = Random(seed).random
    keys = [draw() for _ in range(n)]
    order = sorted(range(n), key=keys.__getitem__)
    return array("d", (min(max((part + draw()) / n, _LEAST), _MOST) for part in order))


def sobol(n: int, seed: int, names: list[str]) -> list[Draw]:
    """The dimensions of one scrambled Sobol' sequence."""
    try:
        from scipy.stats import qmc
    except ImportError:
        raise Unsupported("Sweep.sobol needs scipy: pip install 'balsam-jupyter[designs]'") from None
    if len(names) > qmc.Sobol.MAXDIM or n > 2**30:
        raise BadInput(f"Sweep.sobol has at most {qmc.Sobol.MAXDIM:,} parameters and 2**30 rows.")
    if n & (n - 1):
        below = 1 << (n.bit_length() - 1)
        log.warning(
            "Sweep.sobol: %s is not a power of 2, so its points are not as even as those of %s or %s.",
            n,
            below,
            2 * below,
        )

    @cache
    def matrix() -> Any:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about n, which has been said
            try:
                engine = qmc.Sobol(len(names), rng=seed)
            except TypeError:  # scipy before 1.15
                engine = qmc.Sobol(len(names), seed=seed)
            return engine.random(n).clip(_LEAST, _MOST)

    return [lambda at=at: array("d", matrix()[:, at]) for at in range(len(names))]  # type: ignore[misc]
