"""A schedule steps after the optimizer, and as often as its length was counted for."""

import weakref
from dataclasses import dataclass, field
from typing import Any

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place
from dlconcepts.watch.trace import Held

LOW = 0.3  # of the first rate, within the first pass over the data
GENTLE = 0.99  # a batch: a schedule that counts batches falls over thousands of them
LONG = 20  # steps of an optimizer that make it a training
CLOSED = ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR")


@dataclass
class Schedule:
    """What is known of one schedule."""

    ref: "weakref.ref[Any]"
    name: str
    period: int
    held: Held
    place: Place  # where it was built, then where it steps
    steps: int = 0
    rates: list[float] = field(default_factory=list)


class TheScheduleFollowsTheSteps(Law):
    """A schedule steps after the optimizer, and as often as its length was counted for."""

    claim = "training.optimizer-step-applies-the-gradient"
    concept = "Schedule stepped at the wrong place"
    why = "the rate falls too early, too fast, or never"
    fix = "scheduler.step() after optimizer.step(), once an epoch or once a batch, as it counts"

    schedules: dict[int, Schedule]
    rates: dict[Held, tuple[float, float]]  # of the first and the last step of an optimizer

    def on_step_begins(self, held: Held) -> None:
        rate = float(held.groups[0]["lr"])
        self.rates[held] = self.rates.get(held, (rate,))[0], rate

    def known(self, schedule: Any, held: Held, place: Place) -> Schedule:
        known = self.schedules.get(id(schedule))
        if known is None or known.ref() is not schedule:
            period = getattr(schedule, "T_max", 0) or getattr(schedule, "total_steps", 0) or 0
            name = type(schedule).__name__
            known = Schedule(weakref.ref(schedule), name, int(period), held, place)
            self.schedules[id(schedule)] = known
        return known

    def on_schedule_built(self, schedule: Any, held: Held, rates: Any, place: Place) -> None:
        self.known(schedule, held, place)
        # The parts of a schedule of schedules do not count.
        for part in [*getattr(schedule, "_schedulers", ()), getattr(schedule, "scheduler", None)]:
            self.schedules.pop(id(part), None)

    def on_scheduled(self, schedule: Any, held: Held, rates: Any, place: Place) -> None:
        self.seen = True
        known = self.known(schedule, held, place)
        known.steps, known.place = known.steps + 1, place
        known.rates = [*(known.rates or rates[:1])[:255], float(held.groups[0]["lr"])]
        first, now, lowest = known.rates[0], known.rates[-1], min(known.rates)
        if not held.steps and not getattr(held.optimizer(), "state", None):
            text = f"{known.name} stepped before the first step of {held.name}"
            proof = f"it is at {schedule.last_epoch} already: its first rate, {first:.4g}, is "
            self.broken(place, text, f"{proof}cut short, and training starts with {now:.4g}")
        is_low = known.steps > max(1, known.period) and lowest < first * LOW
        is_fast = known.name in CLOSED and lowest < first * GENTLE**known.steps
        if held.steps and is_low and is_fast and self.training_passes() == 1:
            text = f"{known.name} stepped {known.steps} times in the first pass over the data"
            proof = f"the rate fell from {first:.4g} to {lowest:.4g} before that pass ended"
            proof += f", and has risen to {now:.4g} again" if now > lowest else ""
            self.broken(place, text, proof)

    def training_passes(self) -> int:
        return max((loader.passes for loader in self.trace.training_loaders), default=0)

    def on_finished(self) -> None:
        for known in self.schedules.values():
            steps, (first, last) = known.held.steps, self.rates.get(known.held, (0.0, 0.0))
            if not known.steps:
                is_long = steps >= LONG or (steps and self.training_passes() > 1)
                if is_long and first == last:
                    text = f"{known.name} was built and never stepped"
                    proof = f"the rate of step {steps} is {last:.4g}, as that of step 1"
                    self.broken(known.place, text, proof)
                continue
            each, rest = divmod(steps, known.steps)
            is_whole = each and not rest and not known.period % each
            if known.steps > 1 and each >= 3 and is_whole and known.period >= steps:
                text = f"{known.name} is {known.period} steps long, and stepped once for {each}"
                proof = f"after {steps} steps the rate is {last:.4g}"
                self.broken(known.place, f"{text} steps of the optimizer", proof)
