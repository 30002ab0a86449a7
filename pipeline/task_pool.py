"""Runs many tasks of one kind: as Ray tasks, or by threads where starting workers would take longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from hiwl_core.errors import IncompleteError, UserError, words_of
from pipeline.retry_policy import TASK_RETRIES

__all__ = ["TaskPool", "ray_pool", "thread_pool"]

# Enough waiting tasks that none of the workers is idle, and few enough that results do not pile up.
TASKS_A_CPU = 2
AUTOSCALED_TASKS = 256

Task = TypeVar("Task")
Result = TypeVar("Result")


class TaskPool(Protocol):
    """Runs a function of a task and of something that all tasks share."""

    def run(
        self, function: Callable[[Task, Any], Result], tasks: Sequence[Task], shared: Any = None
    ) -> Iterator[tuple[int, Result]]:
        """Yield a task's number and its result as they come.

        Raises
        ------
        UserError
            That a task raised.
        IncompleteError
            For a fault of the machine.
        """


@contextmanager
def thread_pool(workers: int, work: str) -> Iterator[TaskPool]:
    """A pool of threads of this process; `work` is what breaks off if one fails."""
    with ThreadPoolExecutor(workers) as executor:
        yield _Threads(executor, work)


@contextmanager
def ray_pool(
    workers: int | None, work: str, lost: Callable[[Any, str], Any] | None = None
) -> Iterator[TaskPool]:
    """A pool of Ray tasks.

    Parameters
    ----------
    workers : int or None
        Tasks at once; None: as many as there is room for.
    work : str
        What breaks off if a task fails.
    lost : callable, optional
        What stands for the result of a task whose workers died again and again, from the task and the fault's
        name: the others go on. By default all breaks off.
    """
    from pipeline.cluster import connected

    with connected() as cluster:
        at_once = workers or TASKS_A_CPU * cluster.cpus or AUTOSCALED_TASKS
        yield _RayTasks(at_once, work, lost, outlives=cluster.grows)


def _broken_off(work: str, error: BaseException) -> IncompleteError:
    reason = words_of(error, 300)
    return IncompleteError(f"{work} broke off ({reason}); what is done is kept: start the same command again")


class _Threads:
    def __init__(self, executor: ThreadPoolExecutor, work: str) -> None:
        self._executor, self._work = executor, work

    def run(
        self, function: Callable[[Task, Any], Result], tasks: Sequence[Task], shared: Any = None
    ) -> Iterator[tuple[int, Result]]:
        futures = {self._executor.submit(function, task, shared): number for number, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except (UserError, PermissionError):
            raise
        except (OSError, MemoryError, pa.ArrowException) as error:
            raise _broken_off(self._work, error) from error
        finally:
            for future in futures:
                future.cancel()


class _RayTasks:
    def __init__(
        self, at_once: int, work: str, lost: Callable[[Any, str], Any] | None, outlives: bool
    ) -> None:
        self._at_once, self._work, self._lost, self._outlives = at_once, work, lost, outlives

    def run(
        self, function: Callable[[Task, Any], Result], tasks: Sequence[Task], shared: Any = None
    ) -> Iterator[tuple[int, Result]]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        remote = ray.remote(num_cpus=1, max_retries=TASK_RETRIES, retry_exceptions=[OSError])(function)
        reference = ray.put(shared)
        running: dict[Any, int] = {}
        waiting = iter(enumerate(tasks))
        try:
            while True:
                for number, task in waiting:
                    running[remote.remote(task, reference)] = number
                    if len(running) >= self._at_once:
                        break
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1)
                for finished in done:
                    number = running.pop(finished)
                    try:
                        result = ray.get(finished)
                    except RayError as error:
                        if self._lost is None:
                            raise
                        result = self._lost(tasks[number], type(error).__name__)
                    yield number, result
        except RayTaskError as error:
            if isinstance(error.cause, (UserError, PermissionError)):
                raise error.cause from None
            raise _broken_off(self._work, error.cause) from error
        except RayError as error:
            raise _broken_off(self._work, error) from error
        finally:
            # A Ray that ends with us ends them too. Ray 2.60 may end this process, with 1 and without a line,
            # when the answer of a task comes that is being cancelled.
            for unfinished in running if self._outlives else ():
                ray.cancel(unfinished)
