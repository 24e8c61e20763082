"""CUDA is faster if the work of a call outweighs the launch.

>>> from dlconcepts.devices import median_seconds
>>> layer = nn.Linear(8, 8)
>>> one, thousand = torch.ones(1, 8), torch.ones(1000, 8)
>>> median_seconds(lambda: layer(thousand)) < 100 * median_seconds(lambda: layer(one))
True

Notes: Train deep models on CUDA instead of on the CPU.
Verdict: holds-if
Truth: For deep networks and large batches. Each call has a fixed cost, which CUDA cannot save: a
    step of the 784-128-64-10 network in batches of 64 can be slower there. `benchmarks/gpu.py`
    measures both, since no test proves a speed. What is proven is that its times are right: CUDA
    works after a call has returned, so a timing waits for all work of the call and no other.
"""

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from dlconcepts import devices
from dlconcepts.testing.laws import law
from tests.devices.common import Queue

WAITED = "the time covers all work of the call and no other"


def waits_for_the_work(work: Callable[[], None], queue: Queue) -> float:
    """Call the library's `median_seconds` for one round, since a median would hide an outlier."""
    return devices.median_seconds(work, "cuda", rounds=1, module=queue, clock=queue.clock)


def times_without_synchronizing(work: Callable[[], None], queue: Queue) -> float:
    """Stop the clock when the calls have returned."""
    work()
    started = queue.clock()
    work()
    return queue.clock() - started


def times_what_was_queued_before(work: Callable[[], None], queue: Queue) -> float:
    """Synchronize at the end only, and so wait for earlier work too."""
    started = queue.clock()
    work()
    queue.synchronize()
    return queue.clock() - started


def times_the_first_call(work: Callable[[], None], queue: Queue) -> float:
    """Time the first call, which also compiles and allocates."""
    queue.synchronize()
    return times_what_was_queued_before(work, queue)


def starts_while_the_device_is_busy(work: Callable[[], None], queue: Queue) -> float:
    """Launch two events and the work while earlier work runs, which hides the launch times."""
    for _ in range(3):  # two calls to warm up and one to time
        start, end = (queue.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


@law(
    right=waits_for_the_work,
    wrong={
        times_without_synchronizing: WAITED,
        times_what_was_queued_before: WAITED,
        times_the_first_call: WAITED,
        starts_while_the_device_is_busy: WAITED,
    },
)
@given(
    kernels=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    first=st.integers(0, 9),
    earlier=st.integers(0, 9),
)
def test_the_time_of_a_call_is_that_of_its_work(
    seconds: Callable[[Callable[[], None], Queue], float],
    kernels: list[int],
    first: int,
    earlier: int,
) -> None:
    """The time of a call runs from an empty queue until all that it launched is done."""
    queue, calls = Queue(), []
    queue.launch(earlier)
    launched = [0, *kernels]
    # Kernel i starts after i + 1 launches at the earliest, and the later ones wait for it.
    done = max(i + 1 + sum(launched[i:]) for i in range(len(launched)))

    def work() -> None:
        # As a call that compiles does, the first one launches more.
        queue.launch(0 if calls else first)
        calls.append(1)
        for kernel in kernels:
            queue.launch(kernel)

    assert math.isclose(seconds(work, queue), done), WAITED
