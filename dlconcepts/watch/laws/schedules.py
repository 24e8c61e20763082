"""A schedule steps after the optimizer, and as often as its length was counted for."""

import weakref
from dataclasses import dataclass, field
from typing import Any

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import NOWHERE, Place
from dlconcepts.watch.report import Explanation
from dlconcepts.watch.trace import Held

DROPS = 2  # of a stepwise schedule, within the first pass over the data
VANISHED = 0.1  # of the first rate, within the first pass over the data
BATCHES = 8  # between two drops: no schedule that counts batches is so short
GENTLE = 0.99
LONG = 20  # steps of an optimizer that make it a training
STEPWISE = ("StepLR", "MultiStepLR")
CLOSED = (*STEPWISE, "ExponentialLR", "CosineAnnealingLR")


@dataclass
class Schedule:
    """What is known of one schedule."""

    schedule: "weakref.ref[Any]"
    name: str
    period: int
    held: Held
    built: Place = NOWHERE
    inside: bool = False  # of another schedule
    steps: int = 0
    place: Place = NOWHERE
    rates: list[float] = field(default_factory=list)


class TheScheduleFollowsTheSteps(Law):
    """A schedule steps after the optimizer, and as often as its length was counted for."""

    explanation = Explanation(
        claim="training.optimizer-step-applies-the-gradient",
        concept="Schedule stepped at the wrong place",
        why="the rate falls too early, too fast, or never",
        fix="scheduler.step() after optimizer.step(), once an epoch or once a batch, as it counts",
    )

    schedules: dict[int, Schedule]

    def known(self, schedule: Any, held: Held) -> Schedule:
        known = self.schedules.get(id(schedule))
        if known is None or known.schedule() is not schedule:
            period = getattr(schedule, "T_max", 0) or getattr(schedule, "total_steps", 0) or 0
            known = Schedule(weakref.ref(schedule), type(schedule).__name__, int(period), held)
            self.schedules[id(schedule)] = known
        return known

    def on_schedule_built(self, schedule: Any, held: Held, rates: Any, place: Place) -> None:
        self.known(schedule, held).built = place
        for part in [*getattr(schedule, "_schedulers", ()), getattr(schedule, "scheduler", None)]:
            if id(part) in self.schedules:
                self.schedules[id(part)].inside = True

    def on_scheduled(self, schedule: Any, held: Held, rates: Any, place: Place) -> None:
        self.seen = True
        known, optimizer = self.known(schedule, held), held.optimizer()
        known.steps, known.place = known.steps + 1, place
        now = [float(group.get("lr", 0)) for group in held.groups]
        known.rates = [*(known.rates or rates[:1])[:255], *now[:1]]
        fresh = not held.steps and optimizer is not None and not optimizer.state
        if fresh and hasattr(schedule, "last_epoch") and self.may_prove(place):
            text = f"{known.name} stepped before the first step of {held.name}"
            proof = f"it is at {schedule.last_epoch} already: its first rate, {rates[0]:.4g}, is "
            proof += f"cut short, and training starts with {now[0]:.4g}"
            self.broken(place, text, proof)
        elif held.steps and not known.inside and known.name in CLOSED:
            self.look_for_haste(known)

    def look_for_haste(self, known: Schedule) -> None:
        """Look for a schedule of epochs that is over within the first pass over the data."""
        if self.training_passes() != 1 or known.steps < 2 or self.proofs[known.place]:
            return
        first, now, lowest = known.rates[0], known.rates[-1], min(known.rates)
        # A schedule that counts batches falls over thousands of them.
        hasty = now < VANISHED * first and now < first * GENTLE**known.steps
        if known.name in STEPWISE:
            drops = len(set(known.rates)) - 1
            hasty = drops >= DROPS and known.steps <= BATCHES * drops
        elif known.name == "CosineAnnealingLR":
            hasty = known.steps > known.period
        if hasty and self.may_prove(known.place):
            text = f"{known.name} stepped {known.steps} times in the first pass over the data"
            proof = f"the rate fell from {first:.4g} to {lowest:.4g} before that pass ended"
            proof += f", and has risen to {now:.4g} again" if now > lowest else ""
            self.broken(known.place, text, proof)

    def training_passes(self) -> int:
        passes = (self.trace.passes.get(key, 0) for key in self.trace.training_loaders())
        return max(passes, default=0)

    def on_finished(self) -> None:
        for known in self.schedules.values():
            steps, rates = known.held.steps, known.held.rates
            if known.inside or not steps:
                continue
            if not known.steps and known.built.line:
                if (self.training_passes() > 1 or steps >= LONG) and rates[0] == rates[-1]:
                    self.seen = True
                    text = f"{known.name} was built and never stepped"
                    proof = f"the rate of step {steps} is {rates[-1]:.4g}, as that of step 1"
                    self.broken(known.built, text, proof)
            elif known.steps > 1 and steps >= 3 * known.steps and known.period >= steps:
                each, rest = divmod(steps, known.steps)
                if not rest and not known.period % each:
                    text = f"{known.name} is {known.period} steps long, and stepped once for {each}"
                    proof = f"after {steps} steps the rate is {rates[-1]:.4g}"
                    self.broken(known.place, f"{text} steps of the optimizer", proof)
