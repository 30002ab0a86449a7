"""A user's mistake that a worker finds comes out as itself, whatever Ray makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import ray
import ray.data

from hiwl_core.errors import IncompleteError, UserError
from pipeline.cluster import connected
from pipeline.mistakes import user_error_in

MISTAKE = "--gpu: there is none; leave it out"


class Refusing:
    """Does not start."""

    def __init__(self, error: Exception) -> None:
        raise error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch


def by_a_task(error: Exception) -> None:
    @ray.remote
    def fail() -> None:
        raise error

    ray.get(fail.remote())


def by_an_actor_that_starts(error: Exception) -> None:
    ray.get(ray.remote(Refusing).remote(error).__ray_ready__.remote())


def by_an_actor_of_ray_data(error: Exception) -> None:
    pool = ray.data.ActorPoolStrategy(size=1)
    ray.data.range(1).map_batches(Refusing, fn_constructor_args=(error,), compute=pool).materialize()


def made_unfinished_work(error: Exception) -> None:
    try:
        by_an_actor_that_starts(error)
    except ray.exceptions.RayError as died:
        raise IncompleteError("the classification broke off; start it again") from died


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "raised", [by_a_task, by_an_actor_that_starts, by_an_actor_of_ray_data, made_unfinished_work]
)
def test_a_mistake_comes_out_as_itself(raised: Callable[[Exception], None]) -> None:
    with pytest.raises(UserError) as told, connected():
        raised(UserError(MISTAKE))
    assert (type(told.value), str(told.value)) == (UserError, MISTAKE)


@pytest.mark.usefixtures("ray_session")
def test_what_is_no_mistake_stays_what_it_is() -> None:
    with pytest.raises(ray.exceptions.ActorDiedError) as died, connected():
        by_an_actor_that_starts(RuntimeError(MISTAKE))
    assert user_error_in(died.value) is None
