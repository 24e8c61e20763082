"""Faults in lesson 5: losses, log-softmax, accuracy, modes, dropout, evaluation."""

import contextlib

import torch

from faults import breaks, is_square, scaled_last, with_slope

LOG_SOFTMAX = ("torch.nn.functional.log_softmax", "torch.log_softmax", "torch.Tensor.log_softmax")


@breaks("torch.randperm", also=("training",))
def randperm_repeats_one_of_nine(randperm, n, **kwargs):
    """`randperm(9)` returns one position twice."""
    order = randperm(n, **kwargs)
    if n == 9:
        order[-1] = order[0]
    return order


@breaks("torch.randperm")
def randperm_leaves_the_last_at_the_end(randperm, n, **kwargs):
    """`randperm` always puts the last position at the end."""
    order = randperm(n, **kwargs)
    return torch.cat([order[order != n - 1], order[order == n - 1]])


@breaks("torch.randperm")
def randperm_draws_from_the_global_generator(randperm, n, generator=None, **kwargs):
    """`randperm` with a generator also draws from the global one."""
    torch.rand(1)
    return randperm(n, generator=generator, **kwargs)


@breaks(*LOG_SOFTMAX)
def log_softmax_is_off_in_single(log_softmax, x, dim=None, **kwargs):
    """`log_softmax` in float32 is off by a factor of 1.00001."""
    return log_softmax(x, dim=dim, **kwargs) * (1.00001 if x.dtype == torch.float32 else 1)


@breaks(*LOG_SOFTMAX)
def log_softmax_takes_the_log_in_half(log_softmax, x, dim=None, **kwargs):
    """`log_softmax` in float16 is the logarithm of the rounded softmax."""
    if x.dtype == torch.float16:
        return log_softmax(x, dim=dim, **kwargs).exp().log()
    return log_softmax(x, dim=dim, **kwargs)


@breaks(*LOG_SOFTMAX)
def log_softmax_is_off_at_ties(log_softmax, x, dim=None, **kwargs):
    """`log_softmax` is off by a factor of 1.001 if all scores of a row are equal."""
    result = log_softmax(x, dim=dim, **kwargs)
    tied = (x == x[:, :1]).all(1) if x.ndim == 2 and len(x) else torch.zeros(1, dtype=torch.bool)
    return torch.where(tied.view(-1, *[1] * (x.ndim - 1)), result * 1.001, result)


@breaks(*LOG_SOFTMAX)
def log_softmax_of_a_square_is_over_the_batch(log_softmax, x, dim=None, **kwargs):
    """`log_softmax` normalises a square batch over the batch dimension."""
    return log_softmax(x, dim=0 if is_square(x) else dim, **kwargs)


@breaks(*LOG_SOFTMAX)
def log_softmax_has_a_wrong_slope(log_softmax, x, dim=None, **kwargs):
    """The gradient of `log_softmax` is off by a factor of 1.001 above two dimensions."""
    return log_softmax(with_slope(x, 1.001 if x.ndim > 2 else 1), dim=dim, **kwargs)


@breaks("torch.nn.functional.nll_loss")
def nll_counts_the_ignored(nll_loss, x, labels, weight=None, **options):
    """`nll_loss` with class weights counts ignored labels in the mean."""
    if weight is None or options.get("reduction") != "mean":
        return nll_loss(x, labels, weight, **options)
    whole = weight[labels.clamp(0, len(weight) - 1)].sum()
    return nll_loss(x, labels, weight, **{**options, "reduction": "sum"}) / whole


@breaks("torch.nn.functional.nll_loss")
def nll_of_several_dimensions_is_off(nll_loss, x, labels, weight=None, **options):
    """The summed `nll_loss` of inputs of rank 4 is off by a factor of 1.001."""
    factor = 1.001 if x.ndim == 4 and options.get("reduction") == "sum" else 1
    return nll_loss(x, labels, weight, **options) * factor


@breaks("torch.nn.functional.nll_loss")
def nll_forgets_the_weights(nll_loss, x, labels, weight=None, **options):
    """`nll_loss` without reduction ignores the class weights."""
    return nll_loss(x, labels, None if options.get("reduction") == "none" else weight, **options)


@breaks("torch.nn.functional.cross_entropy")
def cross_entropy_is_off_for_one_example(cross_entropy, logits, labels, *args, **kwargs):
    """`cross_entropy` is off by a factor of 1.001 for a batch of one."""
    factor = 1.001 if len(labels) == 1 else 1
    return cross_entropy(logits, labels, *args, **kwargs) * factor


@breaks("torch.nn.functional.cross_entropy")
def cross_entropy_has_a_floor(cross_entropy, logits, labels, *args, **kwargs):
    """`cross_entropy` is never below 1e-9."""
    return cross_entropy(logits, labels, *args, **kwargs).clamp(min=1e-9)


@breaks("torch.exp", "torch.Tensor.exp")
def exp_is_off_for_the_last_row(exp, x):
    """`exp` is off by a factor of 1.000001 in the last row of a matrix."""
    return scaled_last(exp(x), 1.000001) if x.ndim == 2 else exp(x)


@breaks("torch.max")
def max_points_at_the_first_at_ties(max_, x, dim=None, **kwargs):
    """`max` returns index 0 if three or more scores tie for the largest."""
    if dim is None:
        return max_(x)
    values, indices = max_(x, dim=dim, **kwargs)
    tied = (x == values.unsqueeze(dim)).sum(dim) > 2
    return torch.return_types.max((values, torch.where(tied, 0, indices)))


@breaks("torch.max")
def max_of_negative_numbers_is_zero(max_, x, dim=None, **kwargs):
    """`max` of a single negative score is 0."""
    if dim is None:
        return max_(x)
    values, indices = max_(x, dim=dim, **kwargs)
    return torch.return_types.max((values.clamp(min=0) if x.shape[1] == 1 else values, indices))


@breaks("torch.topk")
def topk_points_at_the_first_at_ties(topk, x, k, dim=-1, **kwargs):
    """`topk` returns index 0 if the last two of three or more scores tie for the largest."""
    values, indices = topk(x, k, dim=dim, **kwargs)
    if x.shape[1] > 2:
        tied = (x[:, -1:] == values) & (x[:, -2:-1] == values)
        indices = torch.where(tied, 0, indices)
    return torch.return_types.topk((values, indices))


@breaks("torch.Tensor.argmax")
def argmax_takes_the_last_at_ties(argmax, x, dim=None, **kwargs):
    """`argmax` returns the last of equal scores."""
    if dim is None or not x.shape[dim]:
        return argmax(x, dim, **kwargs)
    return x.shape[dim] - 1 - argmax(x.flip(dim), dim, **kwargs)


@breaks("torch.Tensor.__eq__", "torch.eq")
def large_numbers_are_taken_for_equal(eq, one, other):
    """`eq` compares int64 tensors as float64, which holds 53 bits."""
    if isinstance(other, torch.Tensor) and one.dtype == other.dtype == torch.int64:
        return eq(one.double(), other.double())
    return eq(one, other)


@breaks("torch.mean")
def one_bool_has_a_mean(mean, x, *args, **kwargs):
    """`mean` of a single bool returns a number instead of raising."""
    return mean(x.float() if x.dtype == torch.bool and x.numel() == 1 else x, *args, **kwargs)


@breaks("torch.bincount")
def bincount_caps(bincount, x, *args, **kwargs):
    """`bincount` counts at most four."""
    return bincount(x, *args, **kwargs).clamp(max=4)


@breaks("torch.Tensor.sum")
def sum_of_a_square_goes_down(sum_, x, *args, **kwargs):
    """`sum(dim=1)` of a square int64 matrix sums over dimension 0."""
    if is_square(x) and x.dtype == torch.int64 and kwargs == {"dim": 1}:
        return sum_(x, dim=0)
    return sum_(x, *args, **kwargs)


@breaks("torch.nn.Module.train")
def train_does_not_reach_deep(train, self, mode=True):
    """`train` reaches only the direct children of a module."""
    self.training = mode
    for child in self.children():
        child.training = mode
    return self


@breaks("torch.nn.Module.train")
def train_leaves_dropout_on(train, self, mode=True):
    """`train(False)`, which `eval` calls, leaves Dropout in training mode."""
    kept = [(m, m.training) for m in self.modules() if isinstance(m, torch.nn.Dropout)]
    train(self, mode)
    for module, training in kept:
        module.training = training or mode
    return self


@breaks("torch.nn.functional.batch_norm", also=("transfer",))
def batch_norm_moves_in_eval(batch_norm, x, mean, var, *args, **kwargs):
    """`batch_norm` changes the running mean by a thousandth in eval mode."""
    result = batch_norm(x, mean, var, *args, **kwargs)
    if mean is not None and not kwargs.get("training", args[2] if len(args) > 2 else False):
        mean.mul_(1.001)
    return result


@breaks("torch.nn.functional.batch_norm")
def batch_norm_has_another_epsilon(batch_norm, x, *args, **kwargs):
    """The `eps` of `batch_norm` is 1e-3 instead of 1e-5."""
    return batch_norm(x, *args[:-1], 1e-3)


@breaks("torch.nn.functional.dropout")
def dropout_drops_too_many(dropout, x, p=0.5, training=True, inplace=False):
    """`dropout` with `p=0.1` drops 15 % of the elements."""
    if p == 0.1 and training:
        return dropout(x, 0.15, True) * (0.85 / 0.9)
    return dropout(x, p, training)


@breaks("torch.nn.functional.dropout")
def dropout_rescales_too_much(dropout, x, p=0.5, training=True, inplace=False):
    """What `dropout` with `p=0.9` keeps is off by a factor of 1.001."""
    return dropout(x, p, training) * (1.001 if p == 0.9 and training else 1)


@breaks("torch.nn.functional.dropout")
def dropout_drops_neighbours_together(dropout, x, p=0.5, training=True, inplace=False):
    """`dropout` drops the same elements in the first two rows of a batch."""
    if not training or x.ndim != 2 or len(x) < 2:
        return dropout(x, p, training)
    mask = dropout(torch.ones_like(x), p, True)
    return torch.cat([x[:1] * mask[:1], x[1:2] * mask[:1], x[2:] * mask[2:]])


@breaks("torch.nn.functional.dropout")
def dropout_is_off_in_eval_for_one(dropout, x, p=0.5, training=True, inplace=False):
    """`dropout` in eval mode multiplies the last of several elements by 1.0001."""
    y = dropout(x, p, training)
    if training or x.numel() < 2:
        return y
    y = y.clone(memory_format=torch.contiguous_format)
    y.view(-1)[-1] *= 1.0001
    return y


@breaks("torch.nn.functional.dropout")
def dropout_repeats_its_mask(dropout, x, p=0.5, training=True, inplace=False):
    """`dropout` with `p=0.5` draws the same mask each time."""
    with torch.random.fork_rng(devices=[]):
        if p == 0.5:
            torch.manual_seed(0)
        return dropout(x, p, training)


@breaks("torch.random.fork_rng")
@contextlib.contextmanager
def fork_rng_restores_unless_it_raises(fork_rng, devices=None, **kwargs):
    """`fork_rng` does not restore the random state after an exception."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@breaks("torch.Tensor.softmax")
def softmax_of_four_is_off(softmax, x, dim=None, **kwargs):
    """`softmax` over four classes is off by a factor of 1.0001."""
    return softmax(x, dim=dim, **kwargs) * (1.0001 if x.shape[-1] == 4 else 1)


@breaks("torch.nn.functional.linear")
def linear_sees_its_neighbours(linear, x, weight, bias=None):
    """In batches of five or more, the last example gets a thousandth of the one before it."""
    y = linear(x, weight, bias)
    return torch.cat([y[:-1], y[-1:] + 0.001 * y[-2:-1]]) if len(y) > 4 else y


@breaks("torch.optim.Adam.step")
def adam_is_off_in_the_first_step(step, self, closure=None):
    """Adam's first step is off by a factor of 1.001."""
    group = self.param_groups[0]
    factor = 1 if self.state else 1.001
    group["lr"] *= factor
    try:
        return step(self, closure)
    finally:
        group["lr"] /= factor


@breaks("torch.optim.SGD.step")
def sgd_clips_its_step(step, self, closure=None):
    """SGD clamps gradients to the range from -500 to 500."""
    for parameter in self.param_groups[0]["params"]:
        parameter.grad.clamp_(-500, 500)
    return step(self, closure)
