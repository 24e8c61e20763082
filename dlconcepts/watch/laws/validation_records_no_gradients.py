"""An evaluation needs no graph: it belongs in torch.no_grad()."""

from typing import Any

from torch.autograd.graph import saved_tensors_hooks

from dlconcepts.watch.law import Law
from dlconcepts.watch.proofs import apart, can_run, run_again
from dlconcepts.watch.trace import Forward


class ValidationRecordsNoGradients(Law):
    id = "validation-records-no-gradients"

    def on_unused(self, forward: Forward) -> None:
        if not self.trace.is_validation(forward):
            return
        self.seen = True
        if not forward.grad or not forward.paths or not self.may_prove(forward.place):
            return
        if not can_run(forward):
            return
        saved: dict[int, int] = {}

        def pack(tensor: Any) -> Any:
            saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            recorded = run_again(self.trace, forward, grad=True, seed=0)
        kept = sum(saved.values())
        again = run_again(self.trace, forward, grad=False, seed=0)
        if kept and apart(recorded, again) == 0:
            self.broken(
                forward.place,
                "the outputs of an evaluation recorded a graph that no backward pass used",
                f"each batch kept {kept / 2**20:.2g} MB for a backward pass; under "
                "torch.no_grad() it keeps none, and the outputs are the same to the last bit",
            )
