"""A schedule steps after the optimizer, and as often as its length was counted for."""

import weakref
from typing import Any

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held

VANISHED = 1e-3  # of the first rate, within the first pass over the data
LONG = 20  # steps of an optimizer that make it a training


class Schedule:
    """What is known of one schedule."""

    def __init__(self, schedule: Any, held: Held, place: Place) -> None:
        self.schedule, self.held, self.built = weakref.ref(schedule), held, place
        self.name = type(schedule).__name__
        self.period = int(getattr(schedule, "T_max", 0) or getattr(schedule, "total_steps", 0) or 0)
        self.closed = self.name in ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR")
        self.inside = False  # of another schedule
        self.steps = 0
        self.place = NOWHERE
        self.rates: list[float] = []


class TheScheduleFollowsTheSteps(Law):
    id = "the-schedule-follows-the-steps"
    explanation = Explanation(
        claim="training.optimizer-step-applies-the-gradient",
        concept="Schedule stepped at the wrong place",
        why="before the first step it skips its first rate; once a batch where it counts epochs it "
        "is over in the first of them; without step() the rate never changes",
        fix="scheduler.step() after optimizer.step(): once an epoch, or once a batch if its length "
        "is counted in batches",
    )

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.schedules: dict[int, Schedule] = {}

    def on_schedule_built(
        self, schedule: Any, held: Held, rates: list[float], place: Place
    ) -> None:
        self.schedules[id(schedule)] = Schedule(schedule, held, place)
        for part in [*getattr(schedule, "_schedulers", ()), getattr(schedule, "scheduler", None)]:
            if id(part) in self.schedules:
                self.schedules[id(part)].inside = True

    def on_scheduled(self, schedule: Any, held: Held, rates: list[float], place: Place) -> None:
        self.seen = True
        known = self.schedules.get(id(schedule))
        if known is None or known.schedule() is not schedule:
            known = self.schedules[id(schedule)] = Schedule(schedule, held, NOWHERE)
        known.steps, known.place = known.steps + 1, place
        optimizer = held.optimizer()
        now = [float(group.get("lr", 0)) for group in optimizer.param_groups] if optimizer else []
        if rates and now:
            known.rates = [*(known.rates or rates[:1])[:63], now[0]]
        if not held.steps and now != rates and self.may_prove(place):
            self.broken(
                place,
                f"{known.name} stepped before the first step of {type(optimizer).__name__}",
                f"the first rate, {rates[0]:.4g}, is never used: training starts with {now[0]:.4g}",
            )
        elif known.closed and held.steps and not known.inside:
            self.look_for_haste(known, now)

    def look_for_haste(self, known: Schedule, now: list[float]) -> None:
        passes = self.training_passes()
        if known.steps < 2 or known.steps <= 2 * passes or passes > 1 or not now:
            return
        first = known.rates[0]
        if known.name == "CosineAnnealingLR":
            if known.steps > known.period and self.may_prove(known.place):
                self.broken(
                    known.place,
                    f"CosineAnnealingLR(T_max={known.period}) stepped {known.steps} times in the "
                    "first pass over the data",
                    f"the rate fell from {first:.4g} to {min(known.rates):.4g}, and has risen to "
                    f"{now[0]:.4g} again",
                )
        elif now[0] < VANISHED * first and self.may_prove(known.place):
            self.broken(
                known.place,
                f"{known.name} stepped {known.steps} times in the first pass over the data",
                f"the rate fell from {first:.4g} to {now[0]:.4g} before the first pass ended",
            )

    def training_passes(self) -> int:
        loaders = {key for site in self.trace.sites.values() if site.walked for key in site.loaders}
        return sum(self.trace.passes.get(key, 0) for key in loaders)

    def on_finished(self) -> None:
        passes = self.training_passes()
        for known in self.schedules.values():
            optimizer, held = known.held.optimizer(), known.held
            if known.inside or optimizer is None or not held.steps:
                continue
            rate = float(optimizer.param_groups[0].get("lr", 0))
            if not known.steps and (passes > 1 or held.steps >= LONG) and known.built.line:
                self.seen = True
                if rate == held.rate:
                    self.broken(
                        known.built,
                        f"{known.name} was built and never stepped",
                        f"the rate of step {held.steps} is {rate:.4g}, as that of step 1",
                    )
            elif known.steps == passes > 1 and known.period >= held.steps > 2 * passes:
                self.broken(
                    known.place,
                    f"{known.name} is {known.period} steps long, and stepped once an epoch",
                    f"after {held.steps} steps of the optimizer it has made {known.steps} of "
                    f"{known.period}, and the rate is {rate:.4g}",
                )
