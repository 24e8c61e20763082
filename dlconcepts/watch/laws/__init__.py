"""The laws, in the order of a training step: each listens to a trace, a file each.

A law is a class with a method `on_EVENT` for each event that it hears: `forward`, `unused` (a pass
that no backward went through), `loss`, `softmax`, `dropout`, `backward_begins`, `backward_ends`,
`step_begins`, `step_ends`, `clears`, `clips`, `scheduled`, `state_taken`, `state_loads`, `saves`,
`read`, `epoch`, `batch` and `finished`.
"""

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.a_checkpoint_holds_the_optimizer import ACheckpointHoldsTheOptimizer
from dlconcepts.watch.laws.a_partial_checkpoint_is_refused import APartialCheckpointIsRefused
from dlconcepts.watch.laws.a_step_follows_its_own_batch import AStepFollowsItsOwnBatch
from dlconcepts.watch.laws.accumulation_keeps_the_mean import AccumulationKeepsTheMean
from dlconcepts.watch.laws.cross_entropy_is_given_logits import CrossEntropyIsGivenLogits
from dlconcepts.watch.laws.data_is_normalised_once import DataIsNormalisedOnce
from dlconcepts.watch.laws.data_is_the_same_when_read_again import DataIsTheSameWhenReadAgain
from dlconcepts.watch.laws.eval_mode_leaves_nothing_to_chance import EvalModeLeavesNothingToChance
from dlconcepts.watch.laws.every_example_counts_once import EveryExampleCountsOnce
from dlconcepts.watch.laws.every_layer_is_registered import EveryLayerIsRegistered
from dlconcepts.watch.laws.every_parameter_gets_a_gradient import EveryParameterGetsAGradient
from dlconcepts.watch.laws.examples_stay_apart import ExamplesStayApart
from dlconcepts.watch.laws.frozen_parameters_stay import FrozenParametersStay
from dlconcepts.watch.laws.frozen_statistics_stay import FrozenStatisticsStay
from dlconcepts.watch.laws.gradients_are_clipped_before_the_step import (
    GradientsAreClippedBeforeTheStep,
)
from dlconcepts.watch.laws.kept_weights_are_a_copy import KeptWeightsAreACopy
from dlconcepts.watch.laws.nll_is_given_log_probabilities import NllIsGivenLogProbabilities
from dlconcepts.watch.laws.one_step_for_each_backward import OneStepForEachBackward
from dlconcepts.watch.laws.predictions_do_not_see_their_targets import (
    PredictionsDoNotSeeTheirTargets,
)
from dlconcepts.watch.laws.scores_are_not_cut_at_zero import ScoresAreNotCutAtZero
from dlconcepts.watch.laws.shared_memory_is_not_written_to import SharedMemoryIsNotWrittenTo
from dlconcepts.watch.laws.the_loss_is_finite import TheLossIsFinite
from dlconcepts.watch.laws.the_loss_is_kept_as_a_number import TheLossIsKeptAsANumber
from dlconcepts.watch.laws.the_loss_pairs_outputs_with_targets import TheLossPairsOutputsWithTargets
from dlconcepts.watch.laws.the_optimizer_holds_the_model import TheOptimizerHoldsTheModel
from dlconcepts.watch.laws.the_schedule_follows_the_steps import TheScheduleFollowsTheSteps
from dlconcepts.watch.laws.training_and_test_data_are_apart import TrainingAndTestDataAreApart
from dlconcepts.watch.laws.training_data_is_shuffled import TrainingDataIsShuffled
from dlconcepts.watch.laws.training_is_in_training_mode import TrainingIsInTrainingMode
from dlconcepts.watch.laws.validation_changes_nothing import ValidationChangesNothing
from dlconcepts.watch.laws.validation_is_in_eval_mode import ValidationIsInEvalMode
from dlconcepts.watch.laws.validation_records_no_gradients import ValidationRecordsNoGradients

LAWS: tuple[type[Law], ...] = (
    AStepFollowsItsOwnBatch,
    OneStepForEachBackward,
    CrossEntropyIsGivenLogits,
    NllIsGivenLogProbabilities,
    ScoresAreNotCutAtZero,
    TheLossPairsOutputsWithTargets,
    ValidationIsInEvalMode,
    TrainingIsInTrainingMode,
    ValidationRecordsNoGradients,
    ValidationChangesNothing,
    EvalModeLeavesNothingToChance,
    TheOptimizerHoldsTheModel,
    EveryLayerIsRegistered,
    EveryParameterGetsAGradient,
    FrozenParametersStay,
    FrozenStatisticsStay,
    TheLossIsKeptAsANumber,
    TheScheduleFollowsTheSteps,
    GradientsAreClippedBeforeTheStep,
    AccumulationKeepsTheMean,
    KeptWeightsAreACopy,
    ACheckpointHoldsTheOptimizer,
    APartialCheckpointIsRefused,
    DataIsNormalisedOnce,
    EveryExampleCountsOnce,
    TrainingAndTestDataAreApart,
    TrainingDataIsShuffled,
    ExamplesStayApart,
    PredictionsDoNotSeeTheirTargets,
    SharedMemoryIsNotWrittenTo,
    DataIsTheSameWhenReadAgain,
    TheLossIsFinite,
)
