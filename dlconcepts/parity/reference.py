"""Lesson 9, the reference: a network, its gradients and its steps in float64, with error bounds.

It is written out layer by layer, so that it shares no code with what it judges: it calls neither
autograd nor torch's optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dlconcepts.networks import Network
from dlconcepts.parity.bounds import Arithmetic, Bounded, relu, relu_backward

Weights = dict[str, Bounded]
Layer = tuple[str, str]


def layers_of(model: nn.Module) -> list[Layer]:
    """Return the kind and the name of each layer, in the order in which they are applied.

    Takes a Network with ReLU and without dropout, or nn.Sequential of Linear, ReLU, Flatten and, as
    its first layer, Conv2d. Raises TypeError for any other model, since its bound is not known.

    >>> layers_of(Network(4, [3], 2))
    [('flatten', ''), ('linear', 'hidden.0'), ('relu', ''), ('linear', 'output')]
    """
    if isinstance(model, Network):
        if model.activation != "relu" or model.dropout.p:
            raise TypeError("no error bound is known for a Network with dropout or without ReLU")
        names = [f"hidden.{index}" for index in range(len(model.hidden))]
        hidden = [layer for name in names for layer in (("linear", name), ("relu", ""))]
        return [("flatten", ""), *hidden, ("linear", "output")]
    kinds = {nn.Linear: "linear", nn.ReLU: "relu", nn.Flatten: "flatten", nn.Conv2d: "convolution"}
    named = [
        (kinds.get(type(layer), type(layer).__name__), n) for n, layer in model.named_children()
    ]
    unknown = [kind for kind, _ in named if kind not in kinds.values()]
    if not isinstance(model, nn.Sequential) or unknown:
        raise TypeError(f"no error bound is known for {', '.join(unknown) or type(model).__name__}")
    return named


def weights_of(model: nn.Module) -> Weights:
    return {name: Bounded.exact(parameter) for name, parameter in model.named_parameters()}


@dataclass(frozen=True)
class Reference:
    """A network in an arithmetic, with the weights that it had when this was made."""

    rule: Arithmetic
    layers: list[Layer]
    weights: Weights

    @classmethod
    def of(cls, rule: Arithmetic, model: nn.Module) -> Reference:
        return cls(rule, layers_of(model), weights_of(model))

    def forward(self, images: Tensor) -> list[Bounded]:
        """Return the input of each layer and, last, the logits."""
        values = [Bounded.exact(images)]
        for kind, name in self.layers:
            before = values[-1]
            if kind == "flatten":
                values.append(before.reshape(len(images), -1))
            elif kind == "relu":
                values.append(relu(before))
            else:
                weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
                if kind == "linear":
                    result = self.rule.matmul(before, weight.t(), bias)
                else:
                    result = self.rule.convolve(before, weight, bias)
                values.append(self.rule.stored(result))
        return values

    def backward(self, values: list[Bounded], slope: Bounded) -> Weights:
        """Return the gradient of each parameter, given the gradient `slope` of the logits."""
        rule, gradients = self.rule, Weights()
        for (kind, name), before in reversed(list(zip(self.layers, values, strict=False))):
            if kind == "flatten":
                slope = slope.reshape(*before.value.shape)
            elif kind == "relu":
                slope = relu_backward(slope, before)
            else:
                weight, rows = self.weights[f"{name}.weight"], before
                if kind == "convolution":
                    # A row for each place in each image: the patch, and the slope of each channel.
                    rows = before.patches(weight)
                    slope = slope.rearranged(lambda part: part.movedim(1, -1).flatten(0, -2))
                gradient = rule.stored(rule.matmul(slope.t(), rows))
                gradients[f"{name}.weight"] = gradient.reshape(*weight.value.shape)
                gradients[f"{name}.bias"] = rule.stored(rule.total(slope, 0))
                if kind == "linear":  # a convolution is the first layer: no gradient leaves it
                    slope = rule.stored(rule.matmul(slope, weight))
        return gradients

    def gradients(self, images: Tensor, labels: Tensor) -> Weights:
        """Return the gradient of a batch's mean cross-entropy with respect to each parameter."""
        values = self.forward(images)
        return self.backward(values, loss_of(self.rule, values[-1], labels)[1])


def loss_of(rule: Arithmetic, logits: Bounded, labels: Tensor) -> tuple[Bounded, Bounded]:
    """Return the mean cross-entropy of a batch and its gradient with respect to the logits."""
    logs, n = rule.log_softmax(logits), len(labels)
    labels = labels.cpu()
    # On the CPU, torch sums the losses in the dtype itself.
    summing = replace(rule, sum_unit=rule.unit)
    total = summing.stored(summing.total(logs[torch.arange(n, device="cpu"), labels], 0))
    loss = rule.scale(total, -1 / n)
    wanted = F.one_hot(labels, logits.value.shape[1]).double()
    inner = replace(rule, unit=rule.sum_unit).exp(logs)
    error = inner.error + rule.sum_unit * (inner.largest + wanted)
    # One rounding for the incoming gradient, 1 / n, and one for the result.
    slope = rule.stored(rule.stored(Bounded((inner.value - wanted) / n, error / n)))
    return loss, slope


def softmax_of(rule: Arithmetic, logits: Bounded) -> Bounded:
    """Return the class probabilities; their logarithms are not rounded to the dtype in between."""
    inner = replace(rule, unit=rule.sum_unit)
    return rule.stored(inner.exp(inner.log_softmax(logits)))


def step_of(
    rule: Arithmetic, optimizer: Optimizer, state: dict[str, Any], weight: Bounded, slope: Bounded
) -> tuple[Bounded, Weights]:
    """Return a parameter and its optimizer state after one step of SGD, Adam or AdamW.

    `state` is the optimizer's state of the parameter before the step.

    Raises TypeError for an optimizer of another class, or with options that are not covered here.
    Source: PyTorch documentation, the algorithms of `torch.optim.SGD`, `Adam` and `AdamW`.
    """
    options = optimizer.param_groups[0]
    unknown = [
        name for name in ("nesterov", "amsgrad", "maximize", "dampening") if options.get(name)
    ]
    if type(optimizer) not in (SGD, Adam, AdamW) or unknown:
        what = ", ".join([type(optimizer).__name__, *unknown])
        raise TypeError(f"no error bound is known for a step of {what}")
    decay = options["weight_decay"]
    if decay and isinstance(optimizer, AdamW):
        weight = rule.scale(weight, 1 - options["lr"] * decay)
    elif decay:
        slope = rule.add(slope, rule.scale(weight, decay))
    if not isinstance(optimizer, SGD):
        change, moments = _adam(rule, options, state, slope)
        return rule.add(weight, change), moments
    buffer = state.get("momentum_buffer")
    if buffer is not None:
        slope = rule.add(rule.scale(Bounded.exact(buffer), options["momentum"]), slope)
    buffers = {"momentum_buffer": slope} if options["momentum"] else {}
    return rule.add(weight, rule.scale(slope, -options["lr"])), buffers


def _adam(
    rule: Arithmetic, options: dict[str, Any], state: dict[str, Any], slope: Bounded
) -> tuple[Bounded, Weights]:
    (beta1, beta2), step = options["betas"], float(state.get("step", 0)) + 1
    zero = torch.zeros_like(slope.value)
    mean, square = (Bounded.exact(state.get(name, zero)) for name in ("exp_avg", "exp_avg_sq"))
    change = rule.add(slope, Bounded(-mean.value, mean.error))
    new_mean = rule.add(mean, rule.scale(change, 1 - beta1))
    squared = rule.scale(rule.multiply(slope, slope), 1 - beta2)
    new_square = rule.add(rule.scale(square, beta2), squared)
    root = rule.scale(rule.sqrt(new_square), (1 - beta2**step) ** -0.5)
    below = rule.add(root, Bounded.exact(torch.full_like(root.value, options["eps"])))
    # The root is not negative, so the sum is at least what eps alone is rounded to.
    least = options["eps"] * (1 - rule.unit) - rule.tiny
    ratio = rule.divide(new_mean, below, least=least)
    # Where the sign of the gradient is in doubt, the root still bounds the mean:
    # |m'| <= beta1 |m| + (1 - beta1) |g|, v' >= beta2 v and v' >= (1 - beta2) g^2.
    most = beta1 * mean.value.abs() / (beta2 * square.value).sqrt().clamp(min=1e-300)
    most = (most + (1 - beta1) / (1 - beta2) ** 0.5) * (1 - beta2**step) ** 0.5
    normal = new_square.value > 1e6 * rule.tiny
    limit = torch.where(normal, most * (1 + 64 * rule.unit) + ratio.value.abs(), torch.inf)
    ratio = Bounded(ratio.value, torch.minimum(ratio.error, limit))
    moments = {"exp_avg": new_mean, "exp_avg_sq": new_square}
    return rule.scale(ratio, -options["lr"] / (1 - beta1**step)), moments
