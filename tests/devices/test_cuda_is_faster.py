"""Cuda-is-faster.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Train deep models on CUDA instead of on the CPU.
Verdict: holds-if
Truth: For deep networks and large batches; the 784-128-64-10 network in batches of 64 can be
    slower per step on CUDA. Shown, not proved: benchmarks/gpu.py measures both. What is proved is
    that its times are those of the work, which a device does after the call has returned.
"""

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from dlconcepts import devices
from dlconcepts.testing.laws import law
from tests.devices.common import Queue


def times_waited_for_work(work: Callable[[], None], queue: Queue) -> float:
    """Call the library's `median_seconds`, for one round: a median would hide the first."""
    return devices.median_seconds(work, "cuda", rounds=1, module=queue, clock=queue.clock)


def times_without_synchronizing(work: Callable[[], None], queue: Queue) -> float:
    """Take the time until the calls have returned."""
    work()
    started = queue.clock()
    work()
    return queue.clock() - started


def times_what_was_queued_before(work: Callable[[], None], queue: Queue) -> float:
    """Wait at the end only, and so for what was in the queue before."""
    started = queue.clock()
    work()
    queue.synchronize()
    return queue.clock() - started


def times_the_first_call(work: Callable[[], None], queue: Queue) -> float:
    """Take the time of the call that compiles and allocates."""
    queue.synchronize()
    return times_what_was_queued_before(work, queue)


def begins_while_the_device_is_busy(work: Callable[[], None], queue: Queue) -> float:
    """Take the time between two events, launched while the device does what was before them."""
    for _ in range(3):  # the last of these is the round
        start, end = (queue.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


WAITED = "the time is that of the work, all of it and no other"


@law(
    right=times_waited_for_work,
    wrong={
        times_without_synchronizing: WAITED,
        times_what_was_queued_before: WAITED,
        times_the_first_call: WAITED,
        begins_while_the_device_is_busy: WAITED,
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
    """From an empty queue, it is the time until all that the call has launched is done."""
    queue, calls = Queue(), []
    queue.launch(earlier)
    launched = [0, *kernels]
    # The work that was launched after i + 1 seconds, and all that waits for it.
    done = max(i + 1 + sum(launched[i:]) for i in range(len(launched)))

    def work() -> None:
        """Launch some kernels, and the first time some more."""
        queue.launch(0 if calls else first)
        calls.append(1)
        for kernel in kernels:
            queue.launch(kernel)

    assert math.isclose(seconds(work, queue), done), WAITED
