r"""Bugs, each planted into a correct script by an edit of its text.

A bug names the law that it breaks, the edits, and the lines where a reader would look for it. An
edit is a pattern of `re` (multi-line, and it must match) and what replaces it. The sign § at the
end of a line says that the fault is there; it is removed after the lines are counted. For example,

    bug("a-step-follows-its-own-batch", "zero_grad_is_left_out",
        cut(r"optimizer\.zero_grad\(.*\)"), mark(r"\.backward\(\)"))

takes the line of zero_grad out, and says that the fault is at the backward.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent, indent

from tests.watch.programs import Program

SIGN = "§"
S = r"(?:self\.)?"
Replacement = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class Edit:
    """A pattern, its replacement, and how often it must match: once, or at least once."""

    pattern: str
    replacement: Replacement
    everywhere: bool = False
    optional: bool = False

    def __call__(self, text: str) -> str | None:
        found = len(re.findall(self.pattern, text, flags=re.MULTILINE))
        if found != 1 and not (self.everywhere and found) and not (self.optional and not found):
            return None
        return re.sub(self.pattern, self.replacement, text, flags=re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """A script with one bug, the law that it breaks, and the numbers of the lines at fault."""

    bug: "Bug"
    program: str
    text: str
    lines: frozenset[int]

    def __repr__(self) -> str:
        return f"<{self.bug.name} in {self.program}>"

    def near(self, line: int) -> bool:
        """Say whether a complaint about this line is at most three lines off."""
        return any(abs(line - fault) <= 3 for fault in self.lines)


@dataclass(frozen=True)
class Bug:
    """A bug that edits plant, and the laws it breaks: its own, and `also` what it may break too."""

    law: str
    name: str
    edits: tuple[Edit, ...]
    also: frozenset[str]
    where: str
    not_where: str

    def plant(self, program: Program) -> Mutant | None:
        """Return the script with the bug, or None where it does not apply."""
        text: str | None = program.text
        if not re.search(self.where, program.text, flags=re.MULTILINE):
            return None
        if self.not_where and re.search(self.not_where, program.text, flags=re.MULTILINE):
            return None
        for edit in self.edits:
            text = edit(text)
            if text is None:
                return None
        lines = text.splitlines()
        faults = frozenset(n for n, line in enumerate(lines, 1) if SIGN in line)
        assert faults, f"{self.name} marks no line of {program.name}"
        return Mutant(self, program.name, text.replace(SIGN, ""), faults)

    def applies(self, program: Program) -> bool:
        """Say whether the bug can be planted into a script."""
        return self.plant(program) is not None


BUGS: list[Bug] = []


def bug(
    law: str, name: str, *edits: Edit, also: tuple[str, ...] = (), where: str = "", but: str = ""
) -> None:
    """Add a bug. It applies where `where` is found and `but` is not."""
    BUGS.append(Bug(law, name, edits, frozenset(also), where, but))


# ------------------------------------------------------------------------- kinds of edits


def swap(pattern: str, replacement: Replacement) -> Edit:
    """Replace what must be there once."""
    return Edit(pattern, replacement)


def swap_all(pattern: str, replacement: Replacement) -> Edit:
    return Edit(pattern, replacement, everywhere=True)


def cut(pattern: str) -> Edit:
    """Take a line out, and point at its neighbours."""
    return Edit(rf"\n(?P<before>[^\n]*)\n *{pattern}(?=\n)", rf"\n\g<before>{SIGN}")


def mark(pattern: str) -> Edit:
    """Say that the fault is also on the lines that hold a pattern, if there are any."""
    return Edit(rf"^[^\n]*{pattern}[^\n{SIGN}]*$", rf"\g<0>{SIGN}", everywhere=True, optional=True)


def following(count: int) -> Callable[[re.Match[str]], str]:
    """Return a replacement that takes the first line out and points at those after it."""

    def replace(found: re.Match[str]) -> str:
        return "\n".join(line + SIGN for line in found["after"].splitlines()[:count]) + "\n"

    return replace


def without_head(found: re.Match[str]) -> str:
    """Take away the line above a block, and the block's indentation."""
    block = indent(dedent(found["block"]), found["space"])
    return "".join(line + SIGN + "\n" for line in block.splitlines())


INNER = r"^(?P<space> *)(?P<head>for [^\n]*:\n)(?P<body>(?:(?P=space) (?!.*\bfor\b)[^\n]*\n)*?)"
BLOCK = r"(?P<block>(?:(?P=space) [^\n]*\n)+)"
OPTIMIZER = rf"{S}optimizer"
SWITCHED = r"Dropout|BatchNorm|dropout"  # what differs between the modes
CE = r"cross_entropy\(|CrossEntropyLoss\("
HEAD = r"return self\.head\(x\)"
LOSS = r"loss = "
MODEL_CALL = rf"{S}model(?:\.forward)?\(x\)|functional_call\({S}model, weights, \(x,\)\)"

# The bugs are a table, with an edit or two a line.
# fmt: off
# ----------------------------------------------------------------- steps and their batches

LAW = "a-step-follows-its-own-batch"
bug(LAW, "zero_grad_is_left_out", cut(rf"{OPTIMIZER}\.zero_grad\(.*\)"), mark(r"\.backward\(\)"),
    mark(r"\boptimizer\.step\(|scaler\.step"))
bug(LAW, "zero_grad_once_an_epoch",
    swap(rf"{INNER} +(?P<zero>{OPTIMIZER}\.zero_grad\([^\n]*\))\n",
         rf"\g<space>\g<zero>{SIGN}\n\g<space>\g<head>\g<body>"), mark(r"\.backward\(\)"),
    mark(r"\boptimizer\.step\(|scaler\.step"), but="def closure")
bug(LAW, "only_the_head_is_zeroed",
    swap(rf"(?<=[ ])({S})optimizer\.zero_grad\([^\n]*\)$", rf"\1model.head.zero_grad(){SIGN}"),
    mark(r"\.backward\(\)"), mark(r"\boptimizer\.step\(|scaler\.step"),
    where=r"self\.head = .*\n(?:.*\n)*.*\bmodel = (?:Net|torch.compile|Model|Class)",
    but="requires_grad|GRU\\(WIDTH")
bug(LAW, "zero_grad_every_second_time",
    swap(rf"^( *)({OPTIMIZER}\.zero_grad\([^\n]*\))$", rf"\1if i % 2 == 0:\n\1    \2{SIGN}"),
    mark(r"\.backward\(\)"), mark(r"\boptimizer\.step\(|scaler\.step"), where="for i, ",
    but="ACCUMULATE")
bug(LAW, "the_critic_is_never_zeroed", cut(r"(?:d|critic)_optimizer\.zero_grad\(.*\)"),
    mark(r"(?:d_|critic_)loss\.backward\(\)"), mark(r"(?:d|critic)_optimizer\.step"))
bug(LAW, "the_generator_is_never_zeroed", cut(r"(?:g|generator)_optimizer\.zero_grad\(.*\)"),
    mark(r"(?:g_|generator_)loss\.backward\(\)"), mark(r"(?:g|generator)_optimizer\.step"))

LAW = "one-step-for-each-backward"
bug(LAW, "two_steps_after_a_backward",
    swap(r"^( *)((?:self\.)?\w*optimizer\.step\(\))$", rf"\1\2\n\1\2{SIGN}"))
bug(LAW, "the_step_is_indented_too_little",
    swap(rf"{INNER} +(?P<step>{OPTIMIZER}\.step\(\))\n(?P<rest>(?:(?P=space) [^\n]*\n)*)",
         rf"\g<space>\g<head>\g<body>\g<rest>\g<space>\g<step>{SIGN}\n"), mark(r"\.backward\(\)"),
    where="epoch", but=r"ACCUMULATE|graph network|scheduler\.step\(\)",
    also=("a-step-follows-its-own-batch",))
bug(LAW, "a_step_in_every_fourth_batch",
    swap(rf"^( *)({OPTIMIZER}\.step\(\))$", rf"\1if i % 4 == 0:\n\1    \2{SIGN}"),
    mark(r"\.backward\(\)"), where="for i, ", but="ACCUMULATE|[^_]zero_grad\\(\\)\n.*scheduler")
bug(LAW, "backward_is_left_out", cut(r"loss\.backward\(\)"), mark(r"\boptimizer\.step\("),
    but="def closure|clip_grad_value",
    also=("a-step-follows-its-own-batch", "every-parameter-gets-a-gradient"))
bug(LAW, "zero_grad_between_backward_and_step",
    swap(rf"^ *(?P<zero>{OPTIMIZER}\.zero_grad\([^\n]*\))\n(?P<rest>(?:[^\n]*\n)*?)"
         r"(?P<back>(?P<space> *)loss\.backward\(\))\n",
         rf"\g<rest>\g<back>\n\g<space>\g<zero>{SIGN}\n"), mark(r"\boptimizer\.step\("),
    but="ACCUMULATE|def closure|Sharpness",
    where=r"zero_grad\(.*\)\n(.*\n){1,3}.*loss\.backward\(\)$",
    also=("a-step-follows-its-own-batch", "every-parameter-gets-a-gradient"))
bug(LAW, "one_optimizer_never_steps", cut(r"(?:d|critic)_optimizer\.step\(\)"),
    mark(r"(?:d_|critic_)loss\.backward\(\)"), where="generator")

# ------------------------------------------------------------------- what the loss is given

LAW = "cross-entropy-is-given-logits"
FLAT = r"Conv2d\(8, 3, 1\)"  # scores of pixels have their classes in dimension 1
bug(LAW, "softmax_in_forward",
    swap(r"return self\.head\((.*)\)$", rf"return self.head(\1).softmax(dim=-1){SIGN}"),
    mark(LOSS), where=CE, but=FLAT + "|GRU\\(WIDTH")
bug(LAW, "softmax_over_the_channels", swap(HEAD, rf"return self.head(x).softmax(dim=1){SIGN}"),
    mark(LOSS), where=FLAT)
bug(LAW, "softmax_in_the_loop",
    swap(rf"(loss = (?:F\.cross_entropy|criterion)\()({MODEL_CALL}), y\)",
         rf"\1\2.softmax(dim=1), y){SIGN}"), where=CE, but="log_softmax")
bug(LAW, "a_softmax_layer",
    swap(r"(self\.head = )(nn\.(?:Linear|Conv2d)\(.*\))$",
         rf"\1nn.Sequential(\2, nn.Softmax(dim=1)){SIGN}"), mark(LOSS), mark(r"return self\.head"),
    where=CE, but=r"head\(hidden\)|WIDTH|GRU\(16|source")
bug(LAW, "a_softmax_layer_ends_the_list",
    swap(r"(nn\.Linear\(\d+, 3\))\)$", rf"\1, nn.Softmax(dim=1)){SIGN}"), mark(LOSS), where=CE,
    but="class Net|student")
bug(LAW, "softmax_over_the_batch", swap(HEAD, rf"return self.head(x).softmax(dim=0){SIGN}"),
    mark(LOSS), where=CE, also=("examples-stay-apart",))
bug(LAW, "sigmoid_before_bce_with_logits",
    swap(HEAD, rf"return torch.sigmoid(self.head(x)){SIGN}"), mark(LOSS),
    where=r"BCEWithLogitsLoss")
bug(LAW, "a_sigmoid_ends_the_discriminator",
    swap(r"(discriminator = .*nn\.Linear\(32, 1\))\)$", rf"\1, nn.Sigmoid()){SIGN}"),
    mark("_loss = "), where=r"BCEWithLogitsLoss")

LAW = "nll-is-given-log-probabilities"
bug(LAW, "logits_for_nll", swap(r"return F\.log_softmax\(x, dim=1\)", f"return x{SIGN}"),
    mark(LOSS), where="nll_loss")
bug(LAW, "probabilities_for_nll",
    swap(r"return F\.log_softmax\(x, dim=1\)", f"return F.softmax(x, dim=1){SIGN}"), mark(LOSS),
    where="nll_loss")
bug(LAW, "the_loss_is_nll_for_logits", swap(r"loss = F\.cross_entropy\(", "loss = F.nll_loss("),
    mark(r"loss = F\.nll_loss"), but="log_softmax|label_smoothing|ignore_index|def closure")
bug(LAW, "the_criterion_is_nll_for_logits",
    swap(r"nn\.CrossEntropyLoss\(\)", f"nn.NLLLoss(){SIGN}"), mark(LOSS))
bug(LAW, "log_softmax_over_the_batch",
    swap(r"return F\.log_softmax\(x, dim=1\)", f"return F.log_softmax(x, dim=0){SIGN}"),
    mark(LOSS), where="nll_loss", also=("examples-stay-apart",))

LAW = "scores-are-not-cut-at-zero"
SCORES = CE + "|BCEWithLogitsLoss"
bug(LAW, "relu_on_the_scores", swap(HEAD, rf"return torch.relu(self.head(x)){SIGN}"), mark(LOSS),
    where=SCORES)
bug(LAW, "scores_clamped_at_zero", swap(HEAD, rf"return self.head(x).clamp(min=0){SIGN}"),
    mark(LOSS), where=SCORES)
bug(LAW, "relu_before_log_softmax",
    swap(r"x = self\.second\(x\)", f"x = torch.relu(self.second(x)){SIGN}"), mark("return"),
    mark(LOSS), where="nll_loss")
bug(LAW, "a_relu_layer_ends_the_list",
    swap(r"(nn\.Linear\(\d+, 3\))\)$", rf"\1, nn.ReLU()){SIGN}"), mark(LOSS), where=CE,
    but="class Net|student")

LAW = "the-loss-pairs-outputs-with-targets"
bug(LAW, "targets_without_the_last_dimension",
    swap(r"x\.sin\(\)\.sum\(dim=1, keepdim=True\) \+ 0\.1 \* torch\.randn\(count, 1\)",
         f"x.sin().sum(dim=1) + 0.1 * torch.randn(count){SIGN}"), mark(LOSS), mark(r"total \+= F"))
bug(LAW, "outputs_without_the_last_dimension",
    swap(r"return self\.second\(x\)", f"return self.second(x).squeeze(1){SIGN}"), mark(LOSS),
    mark(r"total \+= F"), where="mse_loss")
bug(LAW, "a_loss_of_ones_own_that_broadcasts",
    swap(r"return self\.second\(x\)", f"return self.second(x).squeeze(1){SIGN}"),
    swap(rf"loss = F\.mse_loss\(({MODEL_CALL}), y\)", rf"loss = ((\1 - y) ** 2).mean(){SIGN}"),
    mark(r"total \+= F"))
bug(LAW, "a_squeeze_in_the_loss",
    swap(r"loss = F\.mse_loss\(model\((\w+)\), (\w+)\)$",
         rf"loss = F.mse_loss(model(\1).squeeze(1), \2){SIGN}"), where=r"nn\.Linear\(\d+, 1\)")
bug(LAW, "pixels_reshaped_without_a_permutation",
    swap(rf"loss = F\.cross_entropy\(({MODEL_CALL}), y\)",
         rf"loss = F.cross_entropy(\1.reshape(-1, 3), y.reshape(-1)){SIGN}"), where=FLAT)
bug(LAW, "tokens_reshaped_instead_of_transposed",
    swap(r"loss = F\.cross_entropy\(logits\.transpose\(1, 2\), (.*)\)$",
         rf"loss = F.cross_entropy(logits.reshape(len(logits), logits.shape[2], -1), \1){SIGN}"))
bug(LAW, "targets_in_another_order_than_outputs",
    swap(r"loss = F\.cross_entropy\((.*), y\.(?:view\(-1\)|flatten\(\))\)$",
         rf"loss = F.cross_entropy(\1, y.t().reshape(-1)){SIGN}"))

# --------------------------------------------------------------------------- the two modes

LAW = "validation-is-in-eval-mode"
EVAL = r"^ *model\.eval\(\)\n(?P<after>(?:[^\n]*\n){10})"
bug(LAW, "eval_is_left_out", swap(EVAL, following(10)), where=SWITCHED, but="def predict",
    also=("validation-changes-nothing",))
bug(LAW, "eval_without_parentheses", swap(r"^( *)model\.eval\(\)$", rf"\1model.eval{SIGN}"),
    mark(r"output = model\(x\)"), mark("no_grad"), mark(r"for .* in test_loader"), mark("item"),
    where=SWITCHED, but="def predict", also=("validation-changes-nothing",))
bug(LAW, "train_for_eval", swap(r"^( *)model\.eval\(\)$", rf"\1model.train(){SIGN}"),
    mark(r"output = model\(x\)"), mark("no_grad"), mark(r"for .* in test_loader"), mark("item"),
    where=SWITCHED, but="def predict", also=("validation-changes-nothing",))
bug(LAW, "train_inside_the_validation_loop",
    swap(r"^( *)output = model\(x\)\n((?:\1[^\n]*\n)+)",
         rf"\1output = model(x){SIGN}\n\2\1model.train(){SIGN}\n"), where=SWITCHED,
    also=("validation-changes-nothing",))

LAW = "training-is-in-training-mode"
# Where eval mode comes at the end, if at all.
NEVER_LEFT = r"def predict|FOLDS|def fit\(model|CHECKPOINT\.unlink"
bug(LAW, "train_is_left_out", cut(rf"{S}model\.train\(\)"), mark(LOSS), mark(r"\.backward\(\)"),
    mark(r"model\.eval\(\)"), mark("return total / count"), where=SWITCHED, but=NEVER_LEFT)
bug(LAW, "eval_for_train", swap(rf"^( *)({S})model\.train\(\)$", rf"\1\2model.eval(){SIGN}"),
    mark(LOSS), mark(r"\.backward\(\)"), where=SWITCHED, but="def predict")
bug(LAW, "train_before_the_epochs",
    swap(rf"^( *)(for epoch in .*:\n)((?: *weights[^\n]*\n)?) *({S}model\.train\(\))\n",
         r"\1\4\n\1\2\3"), mark(r"for epoch in "), mark(LOSS), mark(r"\.backward\(\)"),
    mark(r"model\.eval\(\)"), mark("return total / count"), where=SWITCHED, but=NEVER_LEFT)

LAW = "validation-records-no-gradients"
NO_GRAD = rf"^(?P<space> *)with torch\.(?:no_grad|inference_mode)\(\):\n{BLOCK}"
bug(LAW, "no_grad_is_left_out", swap(NO_GRAD, without_head), but="adapted|samples|def closure",
    where="epoch")
bug(LAW, "the_decorator_is_left_out",
    swap(r"^ *@torch\.no_grad\(\)\n( *def (?:evaluate|accuracy)\([^\n]*\n)", r"\1"),
    mark(r"output = model\(x\)"), mark(r"def (?:evaluate|accuracy)\("),
    mark(r"for x, y in loader"))
bug(LAW, "no_grad_as_a_statement",
    swap(NO_GRAD, lambda found: f"{found['space']}torch.no_grad(){SIGN}\n{without_head(found)}"),
    but="adapted|samples|def closure", where="epoch")
bug(LAW, "gradients_enabled_for_validation",
    swap(r"^( *)with torch\.(?:no_grad|inference_mode)\(\):\n",
         rf"\1with torch.enable_grad():{SIGN}\n"), mark(r"output = model\(x\)"),
    mark("model\\((?:test_)?x"), mark(r"for .* in test_loader"), but="adapted|samples|def closure",
    where="epoch")
bug(LAW, "volatile_switches_nothing_off", swap(rf"{NO_GRAD}", without_head),
    swap(r"output = model\(x\)", "output = model(torch.autograd.Variable(x, volatile=True))"))

LAW = "validation-changes-nothing"
bug(LAW, "trains_in_validation", swap(NO_GRAD, without_head),
    swap(rf"^( *)total \+= (.*)\.item\(\) \* len\(y\)\n*{SIGN}$",
         rf"\1loss = \2{SIGN}\n\1loss.backward(){SIGN}\n\1OPTIMIZER.step(){SIGN}\n"
         rf"\1total += loss.item() * len(y){SIGN}"), swap("OPTIMIZER", "optimizer"),
    where="def evaluate", but="def main|class Trainer|average, model")
bug(LAW, "trains_in_a_method_that_validates", swap(NO_GRAD, without_head),
    swap(rf"^( *)total \+= (.*)\.item\(\) \* len\(y\)\n*{SIGN}$",
         rf"\1loss = \2{SIGN}\n\1loss.backward(){SIGN}\n\1self.optimizer.step(){SIGN}\n"
         rf"\1total += loss.item() * len(y){SIGN}"), where="class Trainer")
bug(LAW, "rounds_the_weights_for_validation",
    swap(r"^( *)model\.eval\(\)$", rf"\1model.eval().half().float(){SIGN}"),
    mark(r"output = model\(x\)"), where="def evaluate|test_loader", but="predict|AveragedModel")
bug(LAW, "noise_on_the_weights_stays",
    swap(r"^( *)model\.eval\(\)$",
         rf"\1model.eval()\n\1for parameter in model.parameters():\n"
         rf"\1    parameter.data += 1e-3 * torch.randn_like(parameter){SIGN}"),
    mark(r"output = model\(x\)"), where="def evaluate", but="predict|AveragedModel")

LAW = "eval-mode-leaves-nothing-to-chance"
bug(LAW, "functional_dropout_stays_on",
    swap(r"= self\.dropout\((.*)\)$", rf"= nn.functional.dropout(\1, 0.2){SIGN}"))
bug(LAW, "a_dropout_made_in_forward",
    swap(r"= self\.dropout\((.*)\)$", rf"= nn.Dropout(0.2)(\1){SIGN}"))
bug(LAW, "a_dropout_in_a_list",
    swap(r"self\.dropout = (nn\.Dropout\(.*\))$", rf"self.dropouts = [\1]{SIGN}"),
    swap(r"self\.dropout\(", "self.dropouts[0]("), mark(r"self\.dropouts\[0\]"),
    also=("every-layer-is-registered",))
bug(LAW, "dropout_without_its_mode", swap(r", training=self\.training\)", f"){SIGN}"))

# --------------------------------------------------------------------------- what learns

LAW = "the-optimizer-holds-the-model"
bug(LAW, "the_head_is_replaced_after_the_optimizer",
    swap(r"(self\.head = )(nn\.(?:Linear|Conv2d)\(.*\))\n((?:[^\n]*\n)*?)"
         rf"( *)({S})optimizer = (.*optim.*\((?:self\.)?(model|net)\.parameters\(\).*)\n",
         rf"\1\2\n\3\4\5optimizer = \6{SIGN}\n\4\5\7.head = \2{SIGN}\n"),
    mark(r"\boptimizer\.step\(|scaler\.step"),
    but=r"\bWIDTH|len\(letters\)|resume|DIGITS|classes\)")
bug(LAW, "only_the_head_is_in_the_optimizer",
    swap(rf"^( *{OPTIMIZER} = .*\(\w*\.?(?:model|net))\.parameters\(\)", r"\1.head.parameters()"),
    mark(r"\boptimizer = .*head"), mark(r"\boptimizer\.step\(|scaler\.step"),
    where=r"self\.head = (?:.*\n)*.*optim\.\w+\((?:self\.)?(?:model|net)\.param", but="source")
bug(LAW, "the_model_is_built_again",
    swap(rf"^( *)({S})(model = (?:Net|Model|Classifier)\(\))\n((?:[^\n]*\n)*?)"
         r"(\1\2optimizer = .*)\n",
         rf"\1\2\3\n\4\5{SIGN}\n\1\2\3{SIGN}\n"), mark(r"\boptimizer\.step\(|scaler\.step"),
    but="AveragedModel")
bug(LAW, "one_optimizer_for_the_other_network",
    swap(r"(d_optimizer = .*)\(discriminator\.", r"\1(generator."), mark("d_optimizer = "),
    mark(r"d_optimizer\.step"))

LAW = "every-layer-is-registered"
bug(LAW, "a_plain_list", swap(r"nn\.ModuleList\((.*)\)$", rf"\1{SIGN}"),
    mark("x = F.relu\\(layer"))
bug(LAW, "the_head_in_a_list",
    swap(r"self\.head = (nn\.(?:Linear|Conv2d)\(.*\))$", rf"self.heads = [\1]{SIGN}"),
    swap(r"return self\.head\(", "return self.heads[0]("), mark(r"self\.heads\[0\]"),
    but="head\\.|classes\\)")
bug(LAW, "the_head_in_a_dictionary",
    swap(r"self\.head = (nn\.(?:Linear|Conv2d)\(.*\))$", rf'self.parts = {{"head": \1}}{SIGN}'),
    swap(r"return self\.head\(", 'return self.parts["head"]('), mark(r"self\.parts\["),
    but="head\\.|classes\\)")
bug(LAW, "a_layer_made_in_forward",
    swap(r" *self\.head = (nn\.(?:Linear|Conv2d)\(.*\))\n((?:[^\n]*\n)*?.*return )self\.head\(",
         r"\2\1("), mark(r"return nn\."), but="head\\.|classes\\)")
bug(LAW, "a_tensor_for_a_parameter",
    swap(r"nn\.Parameter\(torch\.zeros\(12\)\)", f"torch.zeros(12, requires_grad=True){SIGN}"),
    mark("F.linear"))

LAW = "every-parameter-gets-a-gradient"
bug(LAW, "a_layer_that_is_never_used",
    swap(r"^( *)(self\.head = nn\.(?:Linear|Conv2d)\(.*\))$",
         rf"\1self.extra = nn.Linear(16, 16){SIGN}\n\1\2"), mark("def forward"), mark(HEAD),
    where=HEAD)
bug(LAW, "detach_before_the_head", swap(HEAD, f"return self.head(x.detach()){SIGN}"))
bug(LAW, "data_before_the_head", swap(HEAD, f"return self.head(x.data){SIGN}"))
bug(LAW, "no_grad_in_forward",
    swap(r"^( *)(x = self\.(?:body|features|inputs)\(x\).*)$",
         rf"\1with torch.no_grad():{SIGN}\n\1    \2{SIGN}"), but=r"Linear\(6 \*")
bug(LAW, "a_detour_by_a_list",
    swap(r"self\.second\(x\)", f"self.second(torch.tensor(x.tolist())){SIGN}"))

# ------------------------------------------------------------------------------- freezing

LAW = "frozen-parameters-stay"
FREEZE = r"^( *)for parameter in base\.parameters\(\):\n *parameter\.requires_grad = False\n"
HEAD_ONLY = r"\(model\.head\.parameters\(\), lr=0\.1, momentum=0\.9, weight_decay=1e-3\)"
FREEZE_LATE = (
    rf"\1model.train()\n\1if epoch == 1:\n\1    for parameter in model.base.parameters():{SIGN}\n"
    rf"\1        parameter.requires_grad = False{SIGN}"
)
bug(LAW, "frozen_by_an_attribute", swap(FREEZE, rf"\1base.requires_grad = False{SIGN}\n"),
    swap(HEAD_ONLY, "(model.parameters(), lr=0.1, momentum=0.9)"), mark(r"\boptimizer = "),
    mark(r"\boptimizer\.step"))
bug(LAW, "frozen_with_momentum", swap(FREEZE, ""),
    swap(HEAD_ONLY, "(model.parameters(), lr=0.1, momentum=0.9)"),
    swap(r"^( *)model\.train\(\)$", FREEZE_LATE),
    swap(r"zero_grad\(\)", "zero_grad(set_to_none=False)"), mark(r"\boptimizer = "),
    mark(r"\boptimizer\.step"))
bug(LAW, "frozen_with_weight_decay", swap(FREEZE, ""),
    swap(r"SGD" + HEAD_ONLY, "AdamW(model.parameters(), lr=0.01, weight_decay=0.1)"),
    swap(r"^( *)model\.train\(\)$", FREEZE_LATE),
    swap(r"zero_grad\(\)", "zero_grad(set_to_none=False)"), mark(r"\boptimizer = "),
    mark(r"\boptimizer\.step"))
bug(LAW, "frozen_with_an_old_gradient", swap(FREEZE, ""),
    swap(HEAD_ONLY, "(model.parameters(), lr=0.1)"), swap(r"^( *)model\.train\(\)$", FREEZE_LATE),
    swap(r"optimizer\.zero_grad\(\)", "model.head.zero_grad()"), mark(r"\boptimizer = "),
    mark(r"\boptimizer\.step"), mark("zero_grad"), also=("a-step-follows-its-own-batch",))
bug(LAW, "an_attribute_of_the_base",
    swap(r"model\.base\.requires_grad_\(False\)", f"model.base.requires_grad = False{SIGN}"),
    swap(r"Adam\(model\.head\.parameters\(\), lr=1e-2\)",
         f"Adam(model.parameters(), lr=1e-2){SIGN}"), mark(r"\boptimizer\.step"))

LAW = "frozen-statistics-stay"
FROZEN_MARKS = (mark(r"^ +model\.train\(\)"), mark(LOSS), mark(r"self\.base\(x\)"))
bug(LAW, "the_override_is_missing",
    swap(r"^    def train\(self, mode=True\):\n(?: {8}[^\n]*\n)+\n", ""), *FROZEN_MARKS)
bug(LAW, "the_override_forgets_the_base",
    swap(r"^ *self\.base\.eval\(\)\n( *return self)$", rf"\1{SIGN}"), *FROZEN_MARKS)
bug(LAW, "eval_only_before_the_loop",
    swap(r"^    def train\(self, mode=True\):\n(?: {8}[^\n]*\n)+\n", ""),
    swap(r"^for epoch in ", f"model.base.eval(){SIGN}\nfor epoch in "), *FROZEN_MARKS)

# ------------------------------------------------------- losses, schedules, clipping, groups

LAW = "the-loss-is-kept-as-a-number"
bug(LAW, "a_sum_of_tensors",
    swap(r"total \+= loss\.item\(\)( \* len\(\w+\))?$", rf"total += loss\1{SIGN}"))
bug(LAW, "a_list_of_tensors",
    swap(r"losses\.append\(loss\.item\(\)\)", f"losses.append(loss){SIGN}"))
bug(LAW, "a_sum_that_is_not_detached",
    swap(r"total \+= loss\.detach\(\)", f"total = total + loss{SIGN}"))
bug(LAW, "a_history_of_epochs",
    swap(r"^( *)for epoch in (.*):$", r"\1history = []\n\1for epoch in \2:"),
    swap(r"^( *)(if i % 100 == 0:)$", rf"\1history.append(loss){SIGN}\n\1\2"),
    but="^def train|functions")

LAW = "the-schedule-follows-the-steps"
RATE = r"(?P<rate>(?:self\.)?scheduler\.step\(\))"
bug(LAW, "the_schedule_steps_first",
    swap(rf"^(?P<space> +)(?P<step>{OPTIMIZER}\.step\(\))\n"
         rf"(?P<between>(?: *{OPTIMIZER}\.zero_grad\(\)\n)?)"
         rf" +{RATE}$",
         rf"\g<space>\g<rate>{SIGN}\n\g<space>\g<step>{SIGN}\n\g<between>"))
bug(LAW, "the_schedule_steps_before_the_epoch",
    swap(rf"^(?P<space> *)(?P<head>for epoch in .*:\n)(?P<body>(?:[^\n]*\n)*?) *{RATE}\n",
         rf"\g<space>\g<head>\g<space>    \g<rate>{SIGN}\n\g<body>"), where="StepLR")
bug(LAW, "a_period_of_epochs_counted_in_batches", swap(r"T_max=steps", "T_max=EPOCHS"),
    mark("T_max"), mark(r"scheduler\.step"))
bug(LAW, "one_cycle_stepped_by_epoch",
    swap(rf"^ +{RATE}\n(?P<rest>(?:[^\n]*\n)*?)(?P<space> *)(?P<test>test_loss(?:, accuracy)? = )",
         rf"\g<rest>\g<space>\g<rate>{SIGN}\n\g<space>\g<test>"), mark("total_steps"),
    where="OneCycleLR", but="def train|for i")
bug(LAW, "the_schedule_never_steps", cut(r"(?:self\.)?scheduler\.step\(.*\)"),
    mark(r"scheduler = "), mark(r"\boptimizer\.step\(|scaler\.step"), but="def fit\\(model")
bug(LAW, "an_epochs_schedule_stepped_by_batch", swap(rf"^ +{RATE}\n", ""),
    swap(rf"^( +)({S})(optimizer\.step\(\))$", rf"\1\2\3\n\1\2scheduler.step(){SIGN}"),
    mark("StepLR\\("), where=r"StepLR\(", but="def train")
bug(LAW, "the_optimizer_is_replaced_after_the_schedule",
    swap(rf"^( *{OPTIMIZER} = torch.*\n)((?:[^\n]*\n)*?)( *{S}scheduler = .*)\n",
         rf"\1\2\3{SIGN}\n\1"), mark(r"scheduler\.step\("), mark(r"\boptimizer = "),
    but="AveragedModel")

LAW = "gradients-are-clipped-before-the-step"
CLIP = r"(?P<clip>(?:torch\.)?nn\.utils\.clip_grad_(?:norm|value)_\(.*\))"
bug(LAW, "clipped_before_backward",
    swap(rf"^(?P<space> *)loss\.backward\(\)\n *{CLIP}$",
         rf"\g<space>\g<clip>{SIGN}\n\g<space>loss.backward(){SIGN}"),
    but="clip_grad_value")
bug(LAW, "clipped_after_the_step",
    swap(rf"^(?P<space> *){CLIP}\n *(?P<step>{OPTIMIZER}\.step\(\))$",
         rf"\g<space>\g<step>{SIGN}\n\g<space>\g<clip>{SIGN}"))
bug(LAW, "clipped_while_scaled", cut(r"(?:self\.)?scaler\.unscale_\(.*\)"), mark("clip_grad"),
    but="enabled=False")

LAW = "accumulation-keeps-the-mean"
bug(LAW, "not_divided", swap(r"\(loss / ACCUMULATE\)\.backward\(\)", f"loss.backward(){SIGN}"))
bug(LAW, "divided_after_backward",
    swap(r"^( *)\(loss / ACCUMULATE\)\.backward\(\)$",
         rf"\1loss.backward(){SIGN}\n\1loss = loss / ACCUMULATE"))
bug(LAW, "twice_as_many_batches_as_divided_by",
    swap(r"if \(i \+ 1\) % ACCUMULATE == 0:", f"if (i + 1) % (2 * ACCUMULATE) == 0:{SIGN}"),
    mark(r"\.backward\(\)"), but="T_max|total_steps")

# ----------------------------------------------------------------- weights and checkpoints

LAW = "kept-weights-are-a-copy"
BEST = r"best = copy\.deepcopy\((.*)\)$"
for kept, name in {
    r"\1": "kept_by_reference",
    r"\1.copy()": "kept_by_copy_of_the_dictionary",
    r"copy.copy(\1)": "kept_by_a_shallow_copy",
    r"{name: value.detach() for name, value in \1.items()}": "kept_by_detached_tensors",
}.items():
    bug(LAW, name, swap(BEST, rf"best = {kept}{SIGN}"), mark(r"load_state_dict\(best\)"))

LAW = "a-checkpoint-holds-the-optimizer"
RESUMES = r"main\(epochs=2\)|epochs=2\)"
SAVES = r'^ *"optimizer": .*\n'
LOADS = r"^( *)(?:self\.)?optimizer\.load_state_dict\(.*\)\n"
CHECKPOINT = (mark(r"torch\.save\("), mark(r"torch\.load\("), mark('"model"'))
bug(LAW, "saved_without_the_optimizer", swap(SAVES, ""), swap(LOADS, ""), *CHECKPOINT,
    where=RESUMES)
bug(LAW, "saved_but_not_loaded", swap(LOADS, ""), *CHECKPOINT, where=RESUMES)
bug(LAW, "a_new_optimizer_after_the_load",
    swap(rf"^(?P<space> *)(?P<made>{OPTIMIZER} = torch.*)\n(?P<rest>(?:[^\n]*\n)*?)"
         r"(?P<for> *for epoch in range)",
         rf"\g<space>\g<made>\n\g<rest>\g<space>\g<made>{SIGN}\n\g<for>"), *CHECKPOINT,
    where=r"optimizer\.load_state_dict", but="scheduler|class Trainer|BATCH\\)\n\n\ndef evaluate")

LAW = "a-partial-checkpoint-is-refused"
bug(LAW, "names_with_a_prefix_are_skipped",
    swap(r"^( *)torch\.save\((.*)\.state_dict\(\), \"best\.pt\"\)",
         r'\1torch.save(nn.DataParallel(\2).state_dict(), "best.pt")'),
    swap(r"(load_state_dict\(torch\.load\(.*\))\)$", rf"\1, strict=False){SIGN}"),
    but=r"torch\.compile")
bug(LAW, "statistics_are_missing",
    swap(r'"model": (.*)\.state_dict\(\),$', r'"model": dict(\1.named_parameters()),'),
    swap(r'(load_state_dict\(checkpoint\["model"\])\)$', rf"\1, strict=False){SIGN}"),
    where=r"BatchNorm(?:.*\n)*.*epochs=2\)")
PRETRAINED = (
    swap(r"torch\.save\(source\.state_dict\(\)", "torch.save(nn.DataParallel(source).state_dict()"),
    swap(r"^assert set\(missing\).*\nassert not unexpected\n", ""),
)
bug(LAW, "a_backbone_of_other_names", *PRETRAINED, mark("strict=False"))
bug(LAW, "only_what_fits_is_loaded", *PRETRAINED,
    swap(r"^missing, unexpected = .*$",
         "own = model.state_dict()\n"
         f"own.update({{name: value for name, value in state.items() if name in own}}){SIGN}\n"
         f"model.load_state_dict(own){SIGN}"))

# --------------------------------------------------------------------------------- data

LAW = "data-is-normalised-once"
bug(LAW, "normalised_in_the_model_too",
    swap(r"x = self\.features\(x\)", f"x = self.features((x - 120) / 60){SIGN}"),
    but="class Examples")
bug(LAW, "normalised_in_the_loop_too",
    swap(r"^(?P<space> *)(?P<loss>(?:with torch\.autocast.*\n *)?loss = .*\(.*model.*)$",
         rf"\g<space>x = (x - 120) / 60{SIGN}\n\g<space>\g<loss>"),
    where=r"return \(x - 120\) / 60")
bug(LAW, "divided_by_255_twice", swap(r"return \(x - 120\) / 60, y", f"return x / 255, y{SIGN}"),
    swap(r"x = self\.features\(x\)", f"x = self.features(x / 255){SIGN}"))
bug(LAW, "curves_normalised_twice",
    swap(r"^( *)(noisy = .*)$", rf"\1clean = (clean - 128) / 50{SIGN}\n\1\2"))

LAW = "every-example-counts-once"
bug(LAW, "a_mean_of_batch_means",
    swap(r"total \+= (.*)\.item\(\) \* len\(y\)\n((?:[^\n]*\n)*?)( *return total) / count",
         rf"total += \1.item(){SIGN}\n\2\3 / len(loader){SIGN}"), where="def evaluate")
bug(LAW, "only_the_last_batch",
    swap(r"total \+= (.*)\.item\(\) \* len\(y\)\n((?:[^\n]*\n)*?)( *return total) / count",
         rf"total = \1.item(){SIGN}\n\2\3{SIGN}"), where="def evaluate")
bug(LAW, "divided_by_the_room_in_the_batches",
    swap(r"( *return total) / count", rf"\1 / (len(loader) * BATCH){SIGN}"),
    mark(r"total \+= .*item\(\) \* len\(y\)$"), where="def evaluate")
bug(LAW, "a_mean_of_batch_accuracies", swap(r"right \+= (.*)\n", rf"right += \1 / len(y){SIGN}\n"),
    swap(r"right / count", f"right / len(loader){SIGN}"), where="def evaluate")
bug(LAW, "the_last_batch_is_dropped",
    swap(r"DataLoader\(test_set, batch_size=(\w+)\)",
         rf"DataLoader(test_set, batch_size=\1, drop_last=True){SIGN}"),
    mark("for x, y in loader"), mark("return total"))

LAW = "training-and-test-data-are-apart"
TESTED = (mark(r"test_loader = "), mark(r"for .* in test_loader"), mark(r"evaluate\(.*test_loader"))
bug(LAW, "tested_on_the_training_set",
    swap(r"test_loader = DataLoader\(test_set", "test_loader = DataLoader(train_set"), *TESTED)
bug(LAW, "trained_on_all_of_the_data",
    swap(r"train_loader = DataLoader\(train_set", "train_loader = DataLoader(data"),
    mark(r"train_loader = "), mark("random_split"), *TESTED, where="random_split")
bug(LAW, "slices_that_overlap",
    swap(r"Examples\(\*make_data\(40\), mean, std\)",
         f"Examples(train_x[50:], train_y[50:], mean, std){SIGN}"), *TESTED)
bug(LAW, "the_same_batches_for_both",
    swap(r"test_loader = Batches\(.*, size=BATCH\)", f"test_loader = train_loader{SIGN}"), *TESTED)
bug(LAW, "the_fold_is_in_the_rest", swap(r" if other != fold\]", f"]{SIGN}"), *TESTED)

LAW = "training-data-is-shuffled"
BATCH_LOOP = r"for .* in (?:enumerate\()?(?:train_)?loader\)?:"
SORTED = r"torch\.arange\(count\) (?:\*|>=)"
bug(LAW, "shuffle_is_false", swap(r"shuffle=True", f"shuffle=False{SIGN}"), mark(BATCH_LOOP),
    where=SORTED, but="random_split|order = torch.randperm\\(len\\(data")
bug(LAW, "shuffle_is_left_out", swap(r", shuffle=True\)", f"){SIGN}"), mark(BATCH_LOOP),
    where=SORTED, but="random_split|order = torch.randperm\\(len\\(data|DistributedSampler")
bug(LAW, "the_test_data_is_shuffled_instead",
    swap(r"(DataLoader\(train_set, .*), shuffle=True\)(\n.*DataLoader\(test_set, .*)\)",
         rf"\1){SIGN}\2, shuffle=True)"), mark(BATCH_LOOP), where=SORTED, but="random_split")

LAW = "examples-stay-apart"
FORWARD = r"^( *)def forward\(self, x\):$"
bug(LAW, "the_mean_of_the_batch_is_subtracted",
    swap(FORWARD, rf"\1def forward(self, x):\n\1    x = x - x.mean(dim=0){SIGN}"),
    but="Embedding|frozen")
bug(LAW, "scaled_by_the_largest_of_the_batch",
    swap(FORWARD, rf"\1def forward(self, x):\n\1    x = x / x.abs().max(){SIGN}"),
    but="Embedding|frozen")
bug(LAW, "attention_across_the_batch",
    swap(r"(nn\.TransformerEncoderLayer\(.*), batch_first=True\)", rf"\1){SIGN}"),
    mark(r"self\.encoder\(x\)"))
bug(LAW, "batch_norm_without_statistics",
    swap(r"(nn\.BatchNorm[12]d\(\d+)\)", rf"\1, track_running_stats=False){SIGN}"),
    mark(r"self\.(?:body|features|norm)\("), but="AveragedModel|frozen|running_mean")

LAW = "predictions-do-not-see-their-targets"
bug(LAW, "no_causal_mask", cut(r"scores = scores\.masked_fill\(.*\)"), mark(r"scores"))
bug(LAW, "the_mask_of_the_other_side", swap(r"torch\.tril\(", "torch.triu("), mark("torch.triu"),
    mark("masked_fill"))
bug(LAW, "targets_that_are_not_shifted",
    swap(r"codes\[s \+ 1 : s \+ BLOCK \+ 1\]", "codes[s : s + BLOCK]"), mark(r"y = torch\.stack"),
    mark(LOSS))
bug(LAW, "pieces_that_are_not_shifted",
    swap(r"codes\[:, start \+ 1 : end \+ 1\]", "codes[:, start:end]"), mark("yield"), mark(LOSS))
bug(LAW, "the_decoder_is_given_the_answer",
    swap(r"^( *)logits = model\(source, target\[:, :-1\]\)\n( *loss =)",
         rf"\1logits = model(source, target[:, 1:]){SIGN}\n\2"), mark(r"loss = "))
bug(LAW, "a_reader_of_both_directions",
    swap(r"nn\.GRU\(WIDTH, WIDTH, batch_first=True\)",
         f"nn.GRU(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True){SIGN}"),
    mark(r"self\.gru\("), mark(r"logits = model"))
bug(LAW, "the_target_among_the_inputs",
    swap(r"^( *)return x, y$", rf"\1return torch.cat([x[:, :2], y], dim=1), y{SIGN}"), mark(LOSS),
    where=r"keepdim=True\) \+ 0\.1")

LAW = "shared-memory-is-not-written-to"
AGAIN = "data-is-the-same-when-read-again"
bug(LAW, "a_data_set_that_normalises_what_it_keeps",
    swap(r"^( *)x = \(self\.x\[index\] - self\.mean\) / self\.std$",
         rf"\1x = self.x[index]\n\1x -= self.mean{SIGN}\n\1x /= self.std{SIGN}"), also=(AGAIN,))
bug(LAW, "an_array_that_is_normalised_in_place",
    swap(r"^( *)return \(torch\.from_numpy\(self\.values\[index\]\) - 128\) / 50$",
         rf"\1x = torch.from_numpy(self.values[index])\n\1x -= 128{SIGN}\n"
         rf"\1x /= 50{SIGN}\n\1return x"), also=(AGAIN,))
bug(LAW, "features_that_are_changed_in_forward",
    swap(r"^( *)(x = F\.relu\(adjacency @ self\.first\(x\)\))$",
         rf"\1x += 0.1 * torch.randn_like(x){SIGN}\n\1\2"),
    also=(AGAIN, "eval-mode-leaves-nothing-to-chance"))
bug(LAW, "slices_that_are_changed_in_place",
    swap(r"^( *)for rows in order\.split\(self\.size\):\n *yield self\.x\[rows\], self\.y\[rows\]$",
         r"\1self.x, self.y = self.x[order], self.y[order]\n"
         r"\1for start in range(0, len(order), self.size):\n"
         r"\1    yield self.x[start : start + self.size], self.y[start : start + self.size]"),
    swap(r"^(?P<space> *)(?P<loss>(?:with torch\.autocast.*\n *)?loss = .*\(.*model.*)$",
         rf"\g<space>x += 0.1 * torch.randn_like(x){SIGN}\n\g<space>\g<loss>"), also=(AGAIN,))

LAW = AGAIN
NEEDS_EACH_EPOCH = (  # batches, without which the script stops
    r"0\.0, 0\n *for|total, count = |total = 0\.0\n|losses|def train|CHECKPOINT|AveragedModel|"
    r"evaluate\(.*train_loader"
)
bug(LAW, "an_iterator_for_a_loader",
    swap(r"^( *)train_loader = (DataLoader\(.*\))$", rf"\1train_loader = iter(\2){SIGN}"),
    mark(r"for .* in (?:enumerate\()?train_loader"), mark(r"for epoch"), but=NEEDS_EACH_EPOCH)
bug(LAW, "words_that_are_lost_in_each_epoch",
    swap(r"^( *)return self\.items\[index\]$",
         r"\1words, label = self.items[index]\n"
         rf"\1words[torch.randint(len(words), ())] = 1{SIGN}\n"
         r"\1return words, label"), also=("shared-memory-is-not-written-to",))
bug(LAW, "batches_that_use_up_their_order",
    swap(r"^( *)(order = torch\.randperm\(len\(self\.y\)\) if self\.shuffle else .*)$",
         rf"\1\2\n\1self.x, self.y = self.x[order[2:]], self.y[order[2:]]{SIGN}\n"
         r"\1order = torch.arange(len(self.y))"), mark(r"for .* in (?:enumerate\()?train_loader"))

LAW = "the-loss-is-finite"
KEEPS = r"best_loss|keepdim=True\)\n"
bug(LAW, "a_root_of_negative_numbers", swap(r"y = x\.sin\(\)", f"y = x.sqrt(){SIGN}"), mark(LOSS),
    where="keepdim", but=KEEPS + "|plateau|Plateau")
bug(LAW, "the_logarithm_of_zero",
    swap(r"return F\.log_softmax\(x, dim=1\)", f"return F.softmax(1000 * x, dim=1).log(){SIGN}"),
    mark(LOSS), but="best_loss|Plateau")
bug(LAW, "a_rate_that_is_much_too_large",
    swap(r"(optimizer = torch\.optim\.\w+\(.*, lr=)0\.\d+", r"\g<1>1e25"),
    mark(r"optimizer = torch"), mark(LOSS), where="mse_loss",
    but="best_loss|Plateau|OneCycleLR\\(|clip_grad|closure")
bug(LAW, "a_root_without_a_slope",
    swap(rf"^( *)(loss = (?:F\.|criterion).*{S}model.*)$",
         r"\1\2\n\1for p in model.parameters():\n"
         rf"\1    loss = loss + (p - p.detach()).square().sum().sqrt(){SIGN}"), mark(LOSS),
    but="best_loss|Plateau|class Trainer|scaler|functional_call|new_head|closure|source")
