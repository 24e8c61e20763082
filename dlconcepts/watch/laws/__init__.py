"""The laws, by what they are about: each listens to a trace.

A law is a class with a method `on_EVENT` for each event that it hears: `forward`, `evaluated` (a
pass of a trained model that no backward went through), `stranger` (a layer that its model does not
hold), `loss`, `softmax`, `dropout`, `backward_begins`, `backward_ends`, `step_begins`, `step_ends`,
`trained` (a step, with the forward pass that it followed), `clears`, `clips`, `scaled`,
`schedule_built`, `scheduled`, `state_taken`, `state_loads`, `state_loaded`, `saves`, `read`,
`epoch`, `batch`, `read_twice` and `finished`.
"""

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws import (
    checkpoints,
    data,
    figures,
    independence,
    losses,
    parameters,
    steps,
    validation,
)

TOPICS = (steps, losses, validation, parameters, checkpoints, data, figures, independence)
LAWS: tuple[type[Law], ...] = tuple(
    kind
    for topic in TOPICS
    for kind in vars(topic).values()
    if isinstance(kind, type) and issubclass(kind, Law) and kind.__module__ == topic.__name__
    if kind.__name__ != "Stored"
)
