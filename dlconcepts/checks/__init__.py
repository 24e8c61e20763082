"""Check your own model: the laws of the course that a project's code can break.

    from dlconcepts import checks

    report = checks.check(model=model, batch=(inputs, targets), loss_fn=nn.CrossEntropyLoss())
    print(report)

Every part is given by keyword; a check whose parts are missing is listed as not checked.

=============  =====================================================================================
part           what it is, and how it is called
=============  =====================================================================================
`model`        a Module, or a function without arguments that returns one
`batch`        (inputs, targets); of more than two the last are the targets; a dictionary has them
               as targets, target, labels, label or y; inputs alone. Several inputs, a tuple or a
               dictionary, are passed as arguments of forward if it takes them so
`data`         what is trained on: a Dataset, (all inputs, all targets), or a loader
`loader`       its DataLoader, or whatever gives batches; `batch` is its first if none is given
`validation`   the Dataset or loader that is validated on
`loss_fn`      loss_fn(outputs, targets)
`optimizer`    an Optimizer, or a function of the model's parameters (or of `model`) returning one
`train_step`   train_step(model, loss_fn, optimizer, inputs, targets)
`fit`          one epoch: fit(model, loader, loss_fn, optimizer)
`predict`      predict(model, inputs)
`accuracy`     accuracy(outputs, targets), a number, or several of which the first counts
`evaluate`     evaluate(model, loader, loss_fn): a number, several, a dictionary or an object
`save`         save(model, path) or save(model, optimizer, path)
`load`         load(model, path), load(model, optimizer, path) or load(path), which returns them
`snapshot`     snapshot(model): the weights, to be kept while training goes on
`seed`         seed(number), which makes a run repeatable
`forward`      forward(model, inputs), where model(inputs) will not do
`frozen`       names of the parts that are frozen; if not given: what has requires_grad=False
`device`       where to run the checks, if not where the model is
`batch_dim`    which dimension of the inputs counts the examples, if not the first
=============  =====================================================================================

A project that has other signatures gives a lambda. A law that does not apply is named, with the
reason: `except_for={"examples-stay-apart": "a contrastive model mixes examples on purpose"}`.

Each check is a function too: `check_examples_stay_apart(model=model, batch=batch)` raises
CheckFailedError. `parametrize` makes pytest items of them, and `python -m dlconcepts check` runs
them from the shell. PyTorch is all that they need.
"""

from dlconcepts.checks.registry import REGISTRY, CheckFailedError, Lesson, NotCheckedError

# isort: split
# The order of the course, in which the checks are registered and reported.
from dlconcepts.checks.laws.forward import (
    check_eval_mode_leaves_nothing_to_chance,
    check_examples_stay_apart,
    check_inputs_are_left_alone,
    check_softmax_is_over_the_classes,
    check_the_model_moves_as_a_whole,
)
from dlconcepts.checks.laws.loss import (
    check_cross_entropy_is_given_logits,
    check_nll_is_given_log_probabilities,
    check_scores_are_not_cut_at_zero,
    check_the_loss_pairs_outputs_with_targets,
)

# isort: split
from dlconcepts.checks.laws.learning import (
    check_every_layer_is_registered,
    check_every_parameter_gets_a_gradient,
    check_the_optimizer_holds_the_model,
)

# isort: split
from dlconcepts.checks.laws.steps import (
    check_a_step_follows_its_own_batch,
    check_a_step_follows_the_gradient,
    check_the_loss_is_kept_as_a_number,
)

# isort: split
from dlconcepts.checks.laws.runs import check_a_seed_repeats_the_run

# isort: split
from dlconcepts.checks.laws.validation import (
    check_the_mode_is_restored,
    check_validation_changes_nothing,
    check_validation_is_in_eval_mode,
    check_validation_records_no_gradients,
)

# isort: split
from dlconcepts.checks.laws.metrics import (
    check_accuracy_counts_each_example,
    check_every_example_counts_once,
)

# isort: split
from dlconcepts.checks.laws.checkpoints import (
    check_a_checkpoint_holds_the_model,
    check_a_checkpoint_holds_the_optimizer,
    check_a_partial_checkpoint_is_refused,
    check_kept_weights_are_a_copy,
)
from dlconcepts.checks.laws.data import (
    check_data_is_the_same_when_read_again,
    check_labels_stay_with_their_inputs,
    check_shared_memory_is_not_written_to,
    check_validation_data_is_left_to_no_chance,
)
from dlconcepts.checks.laws.freezing import (
    check_frozen_parameters_stay,
    check_frozen_statistics_stay,
)
from dlconcepts.checks.laws.normalising import check_data_is_normalised_once
from dlconcepts.checks.report import Report, Result, check, parametrize

__all__ = [
    "REGISTRY",
    "CheckFailedError",
    "Lesson",
    "NotCheckedError",
    "Report",
    "Result",
    "check",
    "check_a_checkpoint_holds_the_model",
    "check_a_checkpoint_holds_the_optimizer",
    "check_a_partial_checkpoint_is_refused",
    "check_a_seed_repeats_the_run",
    "check_a_step_follows_its_own_batch",
    "check_a_step_follows_the_gradient",
    "check_accuracy_counts_each_example",
    "check_cross_entropy_is_given_logits",
    "check_data_is_normalised_once",
    "check_data_is_the_same_when_read_again",
    "check_eval_mode_leaves_nothing_to_chance",
    "check_every_example_counts_once",
    "check_every_layer_is_registered",
    "check_every_parameter_gets_a_gradient",
    "check_examples_stay_apart",
    "check_frozen_parameters_stay",
    "check_frozen_statistics_stay",
    "check_inputs_are_left_alone",
    "check_kept_weights_are_a_copy",
    "check_labels_stay_with_their_inputs",
    "check_nll_is_given_log_probabilities",
    "check_scores_are_not_cut_at_zero",
    "check_shared_memory_is_not_written_to",
    "check_softmax_is_over_the_classes",
    "check_the_loss_is_kept_as_a_number",
    "check_the_loss_pairs_outputs_with_targets",
    "check_the_mode_is_restored",
    "check_the_model_moves_as_a_whole",
    "check_the_optimizer_holds_the_model",
    "check_validation_changes_nothing",
    "check_validation_data_is_left_to_no_chance",
    "check_validation_is_in_eval_mode",
    "check_validation_records_no_gradients",
    "parametrize",
]
